//! A table in shared memory that all processes read and write
//! (`storage/ipc/ipci.c`, `shmem.c`).
//!
//! Readers never make a writer wait, and never see half a change: the protocol is that of
//! `st_changecount` in `utils/backend_status.h`. A writer makes the record's change count odd,
//! writes, and makes it even again; a reader that finds it odd, or changed after reading, reads
//! again. Only the writer that made the count odd may write.
//!
//! Beside the records there are single numbers. Both exist in the requested quantity and
//! outlive the processes, but not a crash of the server.
//!
//! Everything in there is an atomic, for which all zeros is a valid value, so that only finding
//! the memory and hooking into start-up need `unsafe`.

use super::latch;
use pgrx::pg_sys;
use std::hint::spin_loop;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, Ordering, fence};

/// How many numbers a record holds.
pub const WORDS: usize = 23;

/// How many numbers a wide record holds.
pub const WIDE_WORDS: usize = 221;

/// What a number of a record can represent.
pub trait Word {
    /// The value that [`Word::to_word`] turned into this number. Any number is valid: shared
    /// memory begins as zeros.
    fn from_word(word: i64) -> Self;
    /// The number that represents the value.
    fn to_word(self) -> i64;
}

macro_rules! word {
    ($type:ty, $from:expr, $to:expr) => {
        impl Word for $type {
            fn from_word(word: i64) -> Self {
                $from(word)
            }

            fn to_word(self) -> i64 {
                $to(self)
            }
        }
    };
}

word!(i64, |word| word, |value| value);
word!(i32, |word| word as i32, i64::from);
word!(u32, |word| word as u32, i64::from);
word!(bool, |word| word != 0, i64::from);
word!(
    Option<i64>,
    |word| (word != i64::MIN).then_some(word),
    |value: Option<i64>| value.unwrap_or(i64::MIN)
);

/// Makes a record hold a structure, with a number for each field.
macro_rules! record {
    ($(#[$attribute:meta])* $visible:vis struct $name:ident {
        $($(#[$about:meta])* $shown:vis $field:ident: $type:ty,)*
    }) => {
        $(#[$attribute])*
        $visible struct $name {
            $($(#[$about])* $shown $field: $type,)*
        }

        impl $name {
            fn from_words([$($field),*]: [i64; $crate::server::shmem::WORDS]) -> Self {
                Self { $($field: $crate::server::shmem::Word::from_word($field),)* }
            }

            fn to_words(self) -> [i64; $crate::server::shmem::WORDS] {
                [$($crate::server::shmem::Word::to_word(self.$field),)*]
            }
        }
    };
}
pub(crate) use record;

/// Some numbers that change together; a reader finds them as one update left them. In shared
/// memory, where it begins as zeros.
#[repr(C)]
pub struct Record<const WORDS: usize = { self::WORDS }> {
    change_count: AtomicU32,
    words: [AtomicI64; WORDS],
}

/// A record for what is written seldom, and takes more room.
pub type WideRecord = Record<WIDE_WORDS>;

/// How many of each to set up.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub records: usize,
    pub wide_records: usize,
    pub numbers: usize,
}

impl Sizes {
    /// How many bytes they take.
    fn bytes(self) -> usize {
        self.records * size_of::<Record>()
            + self.wide_records * size_of::<WideRecord>()
            + self.numbers * size_of::<AtomicI64>()
    }
}

static SIZES: OnceLock<Sizes> = OnceLock::new();
static RECORDS: AtomicPtr<Record> = AtomicPtr::new(ptr::null_mut());
static WIDE_RECORDS: AtomicPtr<WideRecord> = AtomicPtr::new(ptr::null_mut());
static NUMBERS: AtomicPtr<AtomicI64> = AtomicPtr::new(ptr::null_mut());
static THEN: OnceLock<fn()> = OnceLock::new();
static PREVIOUS_REQUEST_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS_STARTUP_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

type Hook = unsafe extern "C-unwind" fn();

/// Makes the server set up all that, with zeros, whenever it sets up its shared memory, and the
/// postmaster then call `then`, after all libraries are loaded. Must be called from `_PG_init`
/// while the library is being preloaded.
pub fn request(sizes: Sizes, then: fn()) {
    // The library is loaded once.
    let _ = SIZES.set(sizes);
    let _ = THEN.set(then);
    // SAFETY: hooks are plain globals of the starting postmaster. The previous hooks are saved,
    // and called first.
    unsafe {
        let previous = pg_sys::shmem_request_hook.map_or(ptr::null_mut(), |hook| hook as *mut ());
        PREVIOUS_REQUEST_HOOK.store(previous, Ordering::Relaxed);
        pg_sys::shmem_request_hook = Some(on_shmem_request);
        let previous = pg_sys::shmem_startup_hook.map_or(ptr::null_mut(), |hook| hook as *mut ());
        PREVIOUS_STARTUP_HOOK.store(previous, Ordering::Relaxed);
        pg_sys::shmem_startup_hook = Some(on_shmem_startup);
    }
}

fn call(hook: &AtomicPtr<()>) {
    let hook = hook.load(Ordering::Relaxed);
    if !hook.is_null() {
        // SAFETY: only ever stored from a hook of this type. A C function that may
        // raise an error, so behind pgrx's boundary.
        unsafe {
            let hook = std::mem::transmute::<*mut (), Hook>(hook);
            pg_sys::ffi::pg_guard_ffi_boundary(|| hook());
        }
    }
}

fn sizes() -> Sizes {
    *SIZES.get().expect("set before the hooks are")
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_shmem_request() {
    call(&PREVIOUS_REQUEST_HOOK);
    // SAFETY: the only place from which this may be called (miscinit.c).
    unsafe { pg_sys::RequestAddinShmemSpace(sizes().bytes()) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_shmem_startup() {
    call(&PREVIOUS_STARTUP_HOOK);
    let sizes = sizes();
    let mut found = false;
    // SAFETY: the space was requested above. ShmemInitStruct() aligns to a cache line, and a
    // record's size is a multiple of an AtomicI64's alignment, so what follows records is
    // aligned, too. The postmaster is alone with it, so no lock is needed to clear it; all
    // other processes inherit the pointers when they are forked.
    unsafe {
        let name = c"count_relations".as_ptr();
        let records: *mut Record = pg_sys::ShmemInitStruct(name, sizes.bytes(), &mut found).cast();
        if !found {
            ptr::write_bytes(records.cast::<u8>(), 0, sizes.bytes());
        }
        let wide_records: *mut WideRecord = records.add(sizes.records).cast();
        RECORDS.store(records, Ordering::Relaxed);
        WIDE_RECORDS.store(wide_records, Ordering::Relaxed);
        NUMBERS.store(
            wide_records.add(sizes.wide_records).cast(),
            Ordering::Relaxed,
        );
    }
    if let Some(then) = THEN.get() {
        then();
    }
}

/// All records; `None` if the library was not preloaded.
pub fn records() -> Option<&'static [Record]> {
    part(&RECORDS, |sizes| sizes.records)
}

/// All wide records; `None` if the library was not preloaded.
pub fn wide_records() -> Option<&'static [WideRecord]> {
    part(&WIDE_RECORDS, |sizes| sizes.wide_records)
}

/// The numbers beside the records; `None` if the library was not preloaded.
pub fn numbers() -> Option<&'static [AtomicI64]> {
    part(&NUMBERS, |sizes| sizes.numbers)
}

fn part<T>(start: &AtomicPtr<T>, count: fn(Sizes) -> usize) -> Option<&'static [T]> {
    let start = start.load(Ordering::Relaxed);
    // SAFETY: on_shmem_startup() made it this long, initialized it, and it stays
    // mapped for as long as the process lives. Its contents are atomics.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start, count(sizes())) })
}

/// Whether this process has something that others wait for: it would keep that if it ran out of
/// memory (see [`super::allocator`]), so a debug build aborts where it allocates any.
pub static NOTHING_TO_ALLOCATE: AtomicBool = AtomicBool::new(false);

fn without_allocating<R>(body: impl FnOnce() -> R) -> R {
    let before = NOTHING_TO_ALLOCATE.swap(true, Ordering::Relaxed);
    let result = body();
    NOTHING_TO_ALLOCATE.store(before, Ordering::Relaxed);
    result
}

/// Runs `body` while no other process does: `holder` is one of the numbers, the same for all.
/// `body` must neither fail nor take long, nor allocate anything.
pub fn exclusively<R>(holder: &AtomicI64, body: impl FnOnce() -> R) -> R {
    let mut attempts = 0;
    while holder
        .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        back_off(&mut attempts);
    }
    // SAFETY: HOLD_INTERRUPTS() and RESUME_INTERRUPTS() of miscadmin.h: if the process were
    // terminated here, nothing would release `holder`.
    unsafe { pg_sys::InterruptHoldoffCount += 1 };
    let result = without_allocating(body);
    holder.store(0, Ordering::Release);
    // SAFETY: as above.
    unsafe { pg_sys::InterruptHoldoffCount -= 1 };
    result
}

impl<const WORDS: usize> Record<WORDS> {
    /// The numbers, as one update left them.
    pub fn read(&self) -> [i64; WORDS] {
        let mut attempts = 0;
        loop {
            let before = self.change_count.load(Ordering::Acquire);
            let words = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let after = self.change_count.load(Ordering::Relaxed);
            if before == after && before.is_multiple_of(2) {
                return words;
            }
            back_off(&mut attempts);
        }
    }

    /// Changes the numbers. `change` must neither fail nor take long, nor allocate anything: no
    /// other process can write or read the record meanwhile.
    pub fn update(&self, change: impl FnOnce(&mut [i64; WORDS])) {
        let mut attempts = 0;
        let count = loop {
            let count = self.change_count.load(Ordering::Relaxed) & !1;
            let odd = count.wrapping_add(1);
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            match self
                .change_count
                .compare_exchange_weak(count, odd, success, failure)
            {
                Ok(_) => break count,
                Err(_) => back_off(&mut attempts),
            }
        };
        // Readers see the odd count before any of the numbers changes.
        fence(Ordering::Release);
        let mut words = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
        without_allocating(|| change(&mut words));
        for (word, value) in self.words.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        self.change_count
            .store(count.wrapping_add(2), Ordering::Release);
    }
}

/// Lets another process, which may be waiting for the processor, finish a change.
fn back_off(attempts: &mut u32) {
    *attempts += 1;
    if *attempts < 1_000 {
        spin_loop();
    } else {
        pgrx::check_for_interrupts!();
        latch::pause();
    }
}
