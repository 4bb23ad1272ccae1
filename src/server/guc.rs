//! Custom settings beyond what pgrx offers (`utils/misc/guc.c`).

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PgLogLevel, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// Why a check hook refuses a value. The server's message names the setting and the value; this
/// adds the DETAIL and the HINT.
pub struct Refusal {
    pub detail: CString,
    pub hint: CString,
}

/// A rule for the values of a string setting.
pub trait StringRule {
    /// Whether the setting may have this value, and if not, why. Called in every process that
    /// is asked to set it.
    fn check(value: &CStr) -> Result<(), Refusal>;
}

/// Makes `ALTER SYSTEM SET … = 'a', 'b'` mean the list `a, b`. Otherwise the server takes one
/// value only (`flatten_set_variable_args()` in guc.c, from 16 on `utils/misc/guc_funcs.c`). It
/// does not quote the values; extensions are not allowed to ask for that.
pub const LIST_INPUT: GucFlags = GucFlags::from_bits_retain(pg_sys::GUC_LIST_INPUT as i32);

/// Defines a string setting whose values must follow the rule `R`.
pub fn define_string<R: StringRule>(
    name: &'static CStr,
    short_description: &'static CStr,
    long_description: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
    flags: GucFlags,
) {
    // SAFETY: the hook is guarded, as check_hook() makes it.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short_description,
            long_description,
            setting,
            context,
            flags,
            check_hook::<R>(),
            None,
            None,
        );
    }
}

/// The check hook (`GucStringCheckHook` in guc.h) that enforces the rule `R`.
fn check_hook<R: StringRule>() -> pg_sys::GucStringCheckHook {
    #[pgrx::pg_guard]
    extern "C-unwind" fn hook<R: StringRule>(
        new_value: *mut *mut c_char,
        _extra: *mut *mut c_void,
        _source: pg_sys::GucSource::Type,
    ) -> bool {
        // SAFETY: the server passes the address of the value, which is a valid C
        // string for as long as the hook runs, or null for "no value".
        let value = unsafe { *new_value };
        if value.is_null() {
            return true;
        }
        // SAFETY: as above.
        match R::check(unsafe { CStr::from_ptr(value) }) {
            Ok(()) => true,
            Err(refusal) => {
                // SAFETY: what GUC_check_errdetail() and GUC_check_errhint() in
                // guc.h do: strings in ErrorContext, which the caller puts into
                // its message and resets after.
                unsafe {
                    pg_sys::GUC_check_errdetail_string = in_error_context(&refusal.detail);
                    pg_sys::GUC_check_errhint_string = in_error_context(&refusal.hint);
                }
                false
            }
        }
    }
    Some(hook::<R>)
}

fn in_error_context(text: &CStr) -> *mut c_char {
    // SAFETY: ErrorContext exists in every process from its start on.
    unsafe { pg_sys::MemoryContextStrdup(pg_sys::ErrorContext, text.as_ptr()) }
}

/// Defines the setting `name` by calling `define`, and makes a wrong value in the
/// configuration stop the starting server with the server's own message.
///
/// By default, the server reports such a value as a WARNING and starts with the default
/// (`define_custom_variable()` in guc.c), because the library that knows the setting is loaded
/// after the configuration was read. For its own settings it refuses to start, and that is what
/// people expect. So the WARNING is suppressed, and the value is checked once more, for FATAL.
pub fn define_strictly(name: &'static CStr, define: impl FnOnce(&'static CStr)) {
    // SAFETY: looks the value up, which until now belongs to a placeholder; copied at once,
    // because defining the setting frees it.
    let configured = unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_owned())
    };
    let log_min_messages = log_min_messages();
    // SAFETY: a plain global of this process, restored right after; an error in
    // between ends the starting postmaster.
    let reported = unsafe { log_min_messages.replace(PgLogLevel::ERROR as c_int) };
    define(name);
    // SAFETY: as above.
    unsafe { log_min_messages.write(reported) };
    if let Some(value) = configured {
        let change_value = false;
        let is_reload = false;
        // SAFETY: both strings outlive the call, which changes nothing.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_POSTMASTER,
                pg_sys::GucSource::PGC_S_FILE,
                pg_sys::GucAction::GUC_ACTION_SET,
                change_value,
                PgLogLevel::FATAL as c_int,
                is_reload,
            );
        }
    }
}

/// The level from which on this process logs. From 19 on there is one per backend type.
fn log_min_messages() -> *mut c_int {
    let level = &raw mut pg_sys::log_min_messages;
    #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
    return level;
    // SAFETY: an array of BACKEND_NUM_TYPES (elog.c's own index in
    // should_output_to_server()), whose length the header leaves open.
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    unsafe {
        level.cast::<c_int>().add(pg_sys::MyBackendType as usize)
    }
}

/// Makes the server report and drop every setting `prefix.…` that was not defined.
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: the string is copied.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

/// Reads the configuration files again. A wrong value in them keeps the old one.
pub fn reload() {
    reserve::release();
    // SAFETY: a process's own reaction to SIGHUP, between two transactions.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    reserve::keep();
}

/// Memory for reporting that there is no memory left.
///
/// pgrx copies each error (`CopyErrorData()` in `utils/error/elog.c`) into the memory context
/// that was current. If there is no room for that, this is another error to copy, and so on
/// until the server's stack of errors is full, which is a PANIC. Reading the configuration can
/// take any amount of memory outside a transaction; within one, the transaction's contexts have
/// room.
pub mod reserve {
    use super::*;
    use std::sync::Mutex;

    /// The sizes of the copy and of the texts in it.
    const SIZES: [usize; 9] = [256, 128, 128, 64, 64, 32, 32, 16, 16];

    static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    /// Sets memory aside. Must be called while there is some.
    pub fn keep() {
        // SAFETY: palloc'd in the context that the process is in between transactions.
        let piece =
            |size| unsafe { pg_sys::MemoryContextAlloc(pg_sys::TopMemoryContext, size) as usize };
        *kept() = SIZES.map(piece).into();
    }

    /// Frees it for whatever needs it.
    pub(super) fn release() {
        for piece in std::mem::take(&mut *kept()) {
            // SAFETY: palloc'd by keep(), and used by nothing else.
            unsafe { pg_sys::pfree(piece as *mut c_void) };
        }
    }

    fn kept() -> std::sync::MutexGuard<'static, Vec<usize>> {
        KEPT.lock().unwrap_or_else(|error| error.into_inner())
    }
}

/// The values of all settings that can be changed while the server runs, and the source of
/// each: what parallel workers are given of their leader's.
pub struct State(Vec<u8>);

impl State {
    /// Saves their current state.
    pub fn save() -> State {
        // SAFETY: EstimateGUCStateSpace() never says too little, and no setting changes
        // between the two calls, which only read. SerializeGUCState() says in front how
        // much it has written.
        unsafe {
            let size = pg_sys::EstimateGUCStateSpace();
            let mut state = vec![0; size];
            pg_sys::SerializeGUCState(size, state.as_mut_ptr().cast());
            State(state)
        }
    }

    /// Restores all of them to this state. Must be called outside a transaction.
    ///
    /// A value also keeps its source: one from the configuration file follows that file again
    /// when it is reloaded, but one that was attached to a database or role does not.
    ///
    /// Raises an ERROR if a check hook refuses, in a connected process, a value that it
    /// accepted in the postmaster; a parallel worker would fail in the same way. Check hooks
    /// that look at catalogs only within a transaction (a tablespace may not exist) have
    /// nothing to object outside one.
    pub fn restore(self) {
        let mut state = self.0;
        // SAFETY: what SerializeGUCState() wrote, in this same process. RestoreGUCState()
        // is meant for a parallel worker that has just connected: it sets everything to its
        // built-in default first, and asserts that no setting is changed for a transaction
        // or function only, of which there are none outside a transaction.
        unsafe { pg_sys::RestoreGUCState(state.as_mut_ptr().cast()) };
    }
}

/// Splits a comma-separated list of identifiers by the rules of `search_path`:
/// white space around them is dropped, they fold to lower case unless quoted, and
/// are cut at 63 bytes. `None` if the syntax is wrong.
/// (`SplitIdentifierString()` in `utils/adt/varlena.c`)
pub fn split_identifiers(list: &CStr) -> Option<Vec<CString>> {
    // SAFETY: SplitIdentifierString() writes into its argument and leaves the
    // names pointing into it, so it gets a copy that outlives the names' use. The
    // list is its own, of C strings; a null list is an empty one.
    unsafe {
        let buffer = pg_sys::pstrdup(list.as_ptr());
        let mut names: *mut pg_sys::List = std::ptr::null_mut();
        let well_formed = pg_sys::SplitIdentifierString(buffer, b',' as c_char, &mut names);
        let result = match names.as_ref() {
            Some(names) => (0..names.length as usize)
                .map(|i| CStr::from_ptr((*names.elements.add(i)).ptr_value.cast()).to_owned())
                .collect(),
            None => Vec::new(),
        };
        pg_sys::list_free(names);
        pg_sys::pfree(buffer.cast());
        well_formed.then_some(result)
    }
}
