//! A table in shared memory that a process owns a slot of, and all processes read
//! (`storage/ipc/ipci.c`, `shmem.c`).
//!
//! Readers never make a writer wait, and never see half a change: the protocol is
//! the one of `st_changecount` in `utils/backend_status.h`. A writer makes the
//! slot's change count odd, writes, and makes it even again; a reader that finds it
//! odd, or changed after reading, reads again. Writers, which are the owner and now
//! and then somebody who resets, keep each other out by who made the count odd.
//!
//! The number of slots is `max_worker_processes`. As every owner is a background
//! worker, there is a slot for each of them, always.
//!
//! Beside the slots there are numbers without an owner, as many as were asked for, which
//! outlive the processes.
//!
//! Everything in there is an atomic, for which all zeros is a valid value, so that
//! only finding the memory and hooking into start-up and exit need `unsafe`.

use super::session::my_pid;
use pgrx::pg_sys;
use std::hint::spin_loop;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::thread::sleep;
use std::time::Duration;

/// How many numbers a slot holds.
pub const WORDS: usize = 13;

#[repr(C)]
pub struct Slot {
    /// The owner's pid; 0 if the slot is free.
    owner: AtomicI32,
    change_count: AtomicU32,
    words: [AtomicI64; WORDS],
}

static TABLE: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
static NUMBERS: AtomicPtr<AtomicI64> = AtomicPtr::new(ptr::null_mut());
static THEN: OnceLock<fn()> = OnceLock::new();
static NUMBER_COUNT: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS_REQUEST_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS_STARTUP_HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

type Hook = unsafe extern "C-unwind" fn();

/// Has the server set up the slots and `numbers` numbers when it sets up its shared
/// memory, also after a crash, and the postmaster call `then`: all libraries are loaded
/// by then. To be called from `_PG_init` while the library is being preloaded.
pub fn request(numbers: usize, then: fn()) {
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

/// The number of slots, which is the number of workers that the server can have.
fn count() -> usize {
    // SAFETY: a global that does not change any more when libraries are preloaded.
    unsafe { pg_sys::max_worker_processes as usize }
}

/// How many bytes the slots take, and all of it.
fn sizes() -> (usize, usize) {
    let slots = count() * size_of::<Slot>();
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

/// The numbers beside the slots, all zero when the server starts; `None` if the library
/// was not preloaded.
pub fn numbers() -> Option<&'static [AtomicI64]> {
    let numbers = NUMBERS.load(Ordering::Relaxed);
    let count = NUMBER_COUNT.load(Ordering::Relaxed);
    // SAFETY: as for the slots, below.
    (!numbers.is_null()).then(|| unsafe { std::slice::from_raw_parts(numbers, count) })
}

/// All slots; `None` if the library was not preloaded.
pub fn all() -> Option<&'static [Slot]> {
    let table = TABLE.load(Ordering::Relaxed);
    // SAFETY: on_shmem_startup() made it this long, initialized it, and it stays
    // mapped for as long as the process lives. Its contents are atomics.
    (!table.is_null()).then(|| unsafe { std::slice::from_raw_parts(table, count()) })
}

/// Makes this process, a background worker, the owner of a free slot until it
/// exits, in whatever way it does.
pub fn claim() -> &'static Slot {
    let pid = my_pid();
    let free = |slot: &&Slot| {
        slot.owner
            .compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    };
    let slots = all().expect("a worker runs only where the library is preloaded");
    let slot = slots
        .iter()
        .find(free)
        .expect("there is a slot for every background worker");
    // SAFETY: the callback has the signature that on_shmem_exit() asks for, and the
    // datum is the address of a slot, which is shared memory's.
    unsafe {
        pg_sys::on_shmem_exit(
            Some(release),
            pg_sys::Datum::from(ptr::from_ref(slot) as usize),
        );
    }
    slot
}

unsafe extern "C-unwind" fn release(_exit_code: i32, slot: pg_sys::Datum) {
    // SAFETY: the address that claim() passed; shared memory is still attached.
    let slot = unsafe { &*(slot.value() as *const Slot) };
    slot.update(|words| *words = [0; WORDS]);
    slot.owner.store(0, Ordering::Release);
}

impl Slot {
    /// The pid of the owner; `None` if the slot is free.
    pub fn owner(&self) -> Option<i32> {
        Some(self.owner.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

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
