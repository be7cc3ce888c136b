//! Ctrl-C while only watching: nothing is left to tidy up, so that the process may end where it stands.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static TEXT: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// The exit status of a process that a person has interrupted, as shells have it.
const INTERRUPTED: libc::c_int = 130;

extern "C" fn interrupted(_: libc::c_int) {
    let text = TEXT.load(Ordering::Acquire);
    // SAFETY: write and _exit may be called from a signal's handler; the text was leaked, so that it lives as long as the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.cast(), LENGTH.load(Ordering::Acquire));
        libc::_exit(INTERRUPTED);
    }
}

/// From here on Ctrl-C ends this process with status 130, and says this.
pub fn says(text: String) {
    let text = Box::leak(format!("{text}\n").into_bytes().into_boxed_slice());
    LENGTH.store(text.len(), Ordering::Release);
    TEXT.store(text.as_mut_ptr(), Ordering::Release);
    let handler: extern "C" fn(libc::c_int) = interrupted;
    // SAFETY: the function does nothing but what a signal's handler may do.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
}
