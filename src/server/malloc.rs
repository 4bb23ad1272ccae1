//! The C library's heap, from which the server's memory contexts take their blocks
//! (`utils/mmgr/aset.c`).

/// Returns unused pages to the system. The C library does so by itself only if there are many
/// of them at the end of the heap. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) has no preconditions, and frees nothing that is in use.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}
