//! What is not to change after the start, made read-only. The linker has put it together (RELRO), and the loader of a dynamic program sees
//! to it; musl does not for a static one.

use std::ffi::{c_int, c_void};

extern "C" fn of_the_program(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the caller gives what lives as long as the call; the headers are the program's own, in memory.
    let (base, headers) = unsafe { ((*info).dlpi_addr, std::slice::from_raw_parts((*info).dlpi_phdr, (*info).dlpi_phnum.into())) };
    // SAFETY: only asks.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    for header in headers.iter().filter(|header| header.p_type == libc::PT_GNU_RELRO) {
        let start = (base + header.p_vaddr) as usize;
        let end = (start + header.p_memsz as usize) / page * page;
        let start = start / page * page;
        // SAFETY: nothing writes there after the start: that is why the linker has put it there. Where it fails all goes on as without.
        unsafe { libc::mprotect(start as *mut c_void, end.saturating_sub(start), libc::PROT_READ) };
    }
    1 // no libraries
}

/// To be called first.
pub fn seal() {
    // SAFETY: the function does what such a function may.
    unsafe { libc::dl_iterate_phdr(Some(of_the_program), std::ptr::null_mut()) };
}
