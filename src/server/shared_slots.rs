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
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::thread::sleep;
use std::time::Duration;

/// How many numbers a slot holds.
pub const WORDS: usize = 16;

#[repr(C)]
pub struct Slot {
    change_count: AtomicU32,
    words: [AtomicI64; WORDS],
}

static TABLE: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
static NUMBERS: AtomicPtr<AtomicI64> = AtomicPtr::new(ptr::null_mut());
static THEN: OnceLock<fn()> = OnceLock::new();
static SLOT_COUNT: AtomicUsize = AtomicUsize::new(0);
static NUMBER_COUNT: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS_REQUEST_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS_STARTUP_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

type Hook = unsafe extern "C-unwind" fn();

/// Has the server set up `slots` slots and `numbers` numbers, all zero, when it sets up
/// its shared memory, also after a crash, and the postmaster call `then`: all libraries
/// are loaded by then. To be called from `_PG_init` while the library is being preloaded.
pub fn request(slots: usize, numbers: usize, then: fn()) {
    SLOT_COUNT.store(slots, Ordering::Relaxed);
    NUMBER_COUNT.store(numbers, Ordering::Relaxed);
    let _ = THEN.set(then); // the library is loaded once
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

/// How many bytes the slots take, and all of it.
fn sizes() -> (usize, usize) {
    let slots = SLOT_COUNT.load(Ordering::Relaxed) * size_of::<Slot>();
    let numbers = NUMBER_COUNT.load(Ordering::Relaxed) * size_of::<AtomicI64>();
    (slots, slots + numbers)
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_shmem_request() {
    call(&PREVIOUS_REQUEST_HOOK);
    let (_, size) = sizes();
    // SAFETY: the one place from which this may be called (miscinit.c).
    unsafe { pg_sys::RequestAddinShmemSpace(size) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_shmem_startup() {
    call(&PREVIOUS_STARTUP_HOOK);
    let (slots, size) = sizes();
    let mut found = false;
    // SAFETY: the space was asked for above. ShmemInitStruct() aligns to a cache
    // line, and a slot's size is a multiple of an AtomicI64's alignment, so what follows
    // the slots is aligned, too. The postmaster is alone with it, so no lock is needed to
    // clear it; all other processes inherit the pointers when they are forked.
    unsafe {
        let table = pg_sys::ShmemInitStruct(c"count_relations".as_ptr(), size, &mut found);
        if !found {
            ptr::write_bytes(table.cast::<u8>(), 0, size);
        }
        TABLE.store(table.cast(), Ordering::Relaxed);
        NUMBERS.store(table.byte_add(slots).cast(), Ordering::Relaxed);
    }
    if let Some(then) = THEN.get() {
        then();
    }
}

/// The numbers beside the slots; `None` if the library was not preloaded.
pub fn numbers() -> Option<&'static [AtomicI64]> {
    let numbers = NUMBERS.load(Ordering::Relaxed);
    let count = NUMBER_COUNT.load(Ordering::Relaxed);
    // SAFETY: as for the slots, below.
    (!numbers.is_null()).then(|| unsafe { std::slice::from_raw_parts(numbers, count) })
}

/// All slots; `None` if the library was not preloaded.
pub fn all() -> Option<&'static [Slot]> {
    let table = TABLE.load(Ordering::Relaxed);
    let count = SLOT_COUNT.load(Ordering::Relaxed);
    // SAFETY: on_shmem_startup() made it this long, initialized it, and it stays
    // mapped for as long as the process lives. Its contents are atomics.
    (!table.is_null()).then(|| unsafe { std::slice::from_raw_parts(table, count) })
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

impl Slot {
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
