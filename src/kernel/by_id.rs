// SPDX-License-Identifier: Apache-2.0
//! Loading programs that are attached to a type of the kernel's, a function or a tracepoint, by its
//! id. libbpf would look for it in all types, and has no option to be told.

use std::ffi::CStr;
use std::ffi::c_int;
use std::ffi::c_long;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use libbpf_rs::libbpf_sys;

/// The sections of such programs, and how the kernel calls what they are.
const SECTIONS: [(&CStr, libbpf_sys::bpf_attach_type); 4] = [
    (c"fentry+", libbpf_sys::BPF_TRACE_FENTRY),
    (c"fexit+", libbpf_sys::BPF_TRACE_FEXIT),
    (c"tp_btf+", libbpf_sys::BPF_TRACE_RAW_TP),
    (c"iter+", libbpf_sys::BPF_TRACE_ITER),
];
/// What they are said to be until each is loaded: of their own kind libbpf reads all types
/// (prog_needs_vmlinux_btf() in libbpf.c).
const UNTIL_LOADED: libbpf_sys::bpf_prog_type = libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT;

/// Programs by name, with the type that each is attached to.
static IDS: Mutex<Vec<(&'static str, u32)>> = Mutex::new(Vec::new());
/// libbpf has one list of handlers for all objects.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it is there, objects that are opened have such programs loaded by their ids. Of those that
/// are not loaded libbpf keeps a handler that is gone by then; it looks at it to load and to attach
/// a program, and at no other time.
pub(super) struct ByIds {
    handlers: Vec<c_int>,
    _alone: MutexGuard<'static, ()>,
}

impl ByIds {
    /// Of all such programs that are to be loaded; `None` if libbpf does not take it.
    pub(super) fn new(ids: &[(&'static str, u32)]) -> Option<Self> {
        let mut by_ids = ByIds { handlers: Vec::new(), _alone: lock(&ONE_AT_A_TIME) };
        *lock(&IDS) = ids.to_vec();
        for (section, attach_type) in SECTIONS {
            let options = libbpf_sys::libbpf_prog_handler_opts {
                sz: size_of::<libbpf_sys::libbpf_prog_handler_opts>() as _,
                prog_prepare_load_fn: Some(prepare),
                ..Default::default()
            };
            // SAFETY: the name and the options are there for the call, which copies them, and the
            // function for as long as the program runs.
            let handler = unsafe {
                libbpf_sys::libbpf_register_prog_handler(
                    section.as_ptr(),
                    UNTIL_LOADED,
                    attach_type,
                    &raw const options,
                )
            };
            if handler < 0 {
                return None;
            }
            by_ids.handlers.push(handler);
        }
        Some(by_ids)
    }
}

impl Drop for ByIds {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            // SAFETY: takes a number.
            unsafe { libbpf_sys::libbpf_unregister_prog_handler(handler) };
        }
    }
}

unsafe extern "C" fn prepare(
    program: *mut libbpf_sys::bpf_program,
    options: *mut libbpf_sys::bpf_prog_load_opts,
    _: c_long,
) -> c_int {
    // SAFETY: libbpf has a name for each program.
    let name = unsafe { CStr::from_ptr(libbpf_sys::bpf_program__name(program)) };
    let ids = lock(&IDS);
    let Some((_, id)) = ids.iter().find(|(program, _)| program.as_bytes() == name.to_bytes())
    else {
        return -libc::ENOENT;
    };
    // SAFETY: libbpf gives its own options, to be changed.
    unsafe { (*options).attach_btf_id = *id };
    // SAFETY: as above; the program is not loaded yet.
    unsafe { libbpf_sys::bpf_program__set_type(program, libbpf_sys::BPF_PROG_TYPE_TRACING) }
}
