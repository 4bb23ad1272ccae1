//! What a process does last (`storage/ipc/ipc.c`).

use pgrx::pg_sys;

/// Makes the process call `action` when it exits, except in a crash, while it still has shared
/// memory. `action` must not fail.
pub fn call_at_exit(action: fn()) {
    // SAFETY: the callback has the signature that on_shmem_exit() asks for.
    unsafe { pg_sys::on_shmem_exit(Some(call), pg_sys::Datum::from(action as usize)) };
}

unsafe extern "C-unwind" fn call(_exit_code: i32, action: pg_sys::Datum) {
    // SAFETY: the function that call_at_exit() passed.
    let action = unsafe { std::mem::transmute::<usize, fn()>(action.value()) };
    action();
}
