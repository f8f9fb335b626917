// SPDX-License-Identifier: Apache-2.0
//! What this process needed to start, or in a storm, is given back before it waits: it may run for
//! years.

use std::ffi::c_int;
use std::ffi::c_void;

use rustix::param::page_size;

/// What was allocated and is free by now, and the pages of the program and its libraries that are
/// as they are on disk: those that are needed again are read again, from the page cache.
pub fn give_back() {
    // Others give back what is free by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: it frees nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: the function is called while the call lasts, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(give_back_file), std::ptr::null_mut()) };
}

/// What was written to is not on disk: variables, and what the linker has set up and made
/// read-only (RELRO), which is a part of what may be written.
unsafe extern "C" fn give_back_file(
    info: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the linker passes a file that is loaded.
    let info = unsafe { &*info };
    // SAFETY: it has so many headers.
    let parts = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    // The kernel's own (vDSO) is no file, and nothing of it was set up.
    let is_file = parts.iter().any(|part| part.p_type == libc::PT_GNU_RELRO);
    let page = page_size();
    let is_as_on_disk = |part: &&libc::Elf64_Phdr| {
        is_file && part.p_type == libc::PT_LOAD && part.p_flags & libc::PF_W == 0
    };
    let place = |part: &libc::Elf64_Phdr| {
        let start = (info.dlpi_addr + part.p_vaddr) as usize;
        // A page that it shares with the next part is that one's, too, which may be written.
        let (first, end) = (start.next_multiple_of(page), start + part.p_memsz as usize);
        (first, (end / page * page).saturating_sub(first))
    };
    // The headers are in the first part: to read on in them would bring it back.
    let places: Vec<_> = parts.iter().filter(is_as_on_disk).map(place).collect();
    for (first, len) in places {
        // SAFETY: whole pages that are mapped from the file, and as they are there.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(first), len, libc::MADV_DONTNEED) };
    }
    0
}
