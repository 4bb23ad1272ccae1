//! A table in shared memory that all processes read and write
//! (`storage/ipc/ipci.c`, `shmem.c`).
//!
//! Readers never make a writer wait, and never see half a change: the protocol is
//! the one of `st_changecount` in `utils/backend_status.h`. A writer makes the
//! slot's change count odd, writes, and makes it even again; a reader that finds it
//! odd, or changed after reading, reads again. Writers keep each other out by who made
//! the count odd.
//!
//! Beside the slots there are numbers, each for itself. Both, as many as were asked for,
//! outlive the processes, but not a crash of the server.
//!
//! Everything in there is an atomic, for which all zeros is a valid value, so that
//! only finding the memory and hooking into start-up need `unsafe`.

use pgrx::pg_sys;
use std::hint::spin_loop;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, Ordering, fence};
use std::thread::sleep;
use std::time::Duration;

/// How many numbers a slot holds.
pub const WORDS: usize = 17;

/// How many numbers a wide slot holds.
pub const WIDE_WORDS: usize = 220;

#[repr(C)]
pub struct Slot<const WORDS: usize = { self::WORDS }> {
    change_count: AtomicU32,
    words: [AtomicI64; WORDS],
}

pub type WideSlot = Slot<WIDE_WORDS>;

/// How much of each is to be there.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub slots: usize,
    pub wide_slots: usize,
    pub numbers: usize,
}

impl Sizes {
    /// How many bytes that takes.
    fn bytes(self) -> usize {
        self.slots * size_of::<Slot>()
            + self.wide_slots * size_of::<WideSlot>()
            + self.numbers * size_of::<AtomicI64>()
    }
}

static SIZES: OnceLock<Sizes> = OnceLock::new();
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
static WIDE_SLOTS: AtomicPtr<WideSlot> = AtomicPtr::new(ptr::null_mut());
static NUMBERS: AtomicPtr<AtomicI64> = AtomicPtr::new(ptr::null_mut());
static THEN: OnceLock<fn()> = OnceLock::new();
static PREVIOUS_REQUEST_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS_STARTUP_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

type Hook = unsafe extern "C-unwind" fn();

/// Has the server set up all that, with zeros, whenever it sets up its shared memory, and the
/// postmaster then call `then`: all libraries are loaded by then. To be called from `_PG_init` while the library is being preloaded.
pub fn request(sizes: Sizes, then: fn()) {
    // The library is loaded once.
    let _ = SIZES.set(sizes);
    let _ = THEN.set(then);
    // SAFETY: hooks are plain globals of the starting postmaster. Whoever was there
    // before us is kept, and called first.
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
    // SAFETY: the one place from which this may be called (miscinit.c).
    unsafe { pg_sys::RequestAddinShmemSpace(sizes().bytes()) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_shmem_startup() {
    call(&PREVIOUS_STARTUP_HOOK);
    let sizes = sizes();
    let mut found = false;
    // SAFETY: the space was asked for above. ShmemInitStruct() aligns to a cache
    // line, and a slot's size is a multiple of an AtomicI64's alignment, so what follows
    // slots is aligned, too. The postmaster is alone with it, so no lock is needed to
    // clear it; all other processes inherit the pointers when they are forked.
    unsafe {
        let name = c"count_relations".as_ptr();
        let slots: *mut Slot = pg_sys::ShmemInitStruct(name, sizes.bytes(), &mut found).cast();
        if !found {
            ptr::write_bytes(slots.cast::<u8>(), 0, sizes.bytes());
        }
        let wide_slots: *mut WideSlot = slots.add(sizes.slots).cast();
        SLOTS.store(slots, Ordering::Relaxed);
        WIDE_SLOTS.store(wide_slots, Ordering::Relaxed);
        NUMBERS.store(wide_slots.add(sizes.wide_slots).cast(), Ordering::Relaxed);
    }
    if let Some(then) = THEN.get() {
        then();
    }
}

/// All slots; `None` if the library was not preloaded.
pub fn all() -> Option<&'static [Slot]> {
    part(&SLOTS, |sizes| sizes.slots)
}

/// All wide slots; `None` if the library was not preloaded.
pub fn all_wide() -> Option<&'static [WideSlot]> {
    part(&WIDE_SLOTS, |sizes| sizes.wide_slots)
}

/// The numbers beside the slots; `None` if the library was not preloaded.
pub fn numbers() -> Option<&'static [AtomicI64]> {
    part(&NUMBERS, |sizes| sizes.numbers)
}

fn part<T>(start: &AtomicPtr<T>, count: fn(Sizes) -> usize) -> Option<&'static [T]> {
    let start = start.load(Ordering::Relaxed);
    // SAFETY: on_shmem_startup() made it this long, initialized it, and it stays
    // mapped for as long as the process lives. Its contents are atomics.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start, count(sizes())) })
}

/// Runs `body` while no other process runs one: `holder` is one of the numbers, the same
/// for all. `body` must not fail nor take long.
pub fn exclusively<R>(holder: &AtomicI64, body: impl FnOnce() -> R) -> R {
    let mut attempts = 0;
    while holder
        .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        back_off(&mut attempts);
    }
    // SAFETY: HOLD_INTERRUPTS() and RESUME_INTERRUPTS() of miscadmin.h: nobody would give
    // back what a process that was terminated holds.
    unsafe { pg_sys::InterruptHoldoffCount += 1 };
    let result = body();
    holder.store(0, Ordering::Release);
    // SAFETY: as above.
    unsafe { pg_sys::InterruptHoldoffCount -= 1 };
    result
}

impl<const WORDS: usize> Slot<WORDS> {
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

    /// Changes the numbers. `change` must not fail nor take long: nobody else can
    /// write or read the slot meanwhile.
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
        // The odd count is seen before any of the numbers changes.
        fence(Ordering::Release);
        let mut words = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
        change(&mut words);
        for (word, value) in self.words.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        self.change_count
            .store(count.wrapping_add(2), Ordering::Release);
    }
}

/// Lets somebody else, who may be waiting for the processor, finish a change.
fn back_off(attempts: &mut u32) {
    *attempts += 1;
    if *attempts < 1_000 {
        spin_loop();
    } else {
        pgrx::check_for_interrupts!();
        sleep(Duration::from_millis(1));
    }
}
