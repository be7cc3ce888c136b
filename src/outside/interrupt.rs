//! Signals to a process that only watches or asks: nothing is left to tidy up, so that it may end where it stands.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static TEXT: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// The exit status of a process that a person has interrupted, as shells have it.
const INTERRUPTED: libc::c_int = 130;

extern "C" fn interrupted(signal: libc::c_int) {
    let text = TEXT.load(Ordering::Acquire);
    let (to, status) = if signal == libc::SIGALRM { (libc::STDOUT_FILENO, 1) } else { (libc::STDERR_FILENO, INTERRUPTED) };
    // SAFETY: write and _exit may be called from a signal's handler; the text was leaked, so that it lives as long as the process.
    unsafe {
        libc::write(to, text.cast(), LENGTH.load(Ordering::Acquire));
        libc::_exit(status);
    }
}

/// From here on Ctrl-C ends this process with status 130, and says this.
pub fn says(text: String) {
    on(libc::SIGINT, text);
}

/// After so many seconds this process prints this and ends, with status 1.
pub fn at_latest(seconds: u32, text: String) {
    on(libc::SIGALRM, text);
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(seconds) };
}

/// One of them in the life of a process: they have one text.
fn on(signal: libc::c_int, text: String) {
    let text = Box::leak(format!("{text}\n").into_bytes().into_boxed_slice());
    LENGTH.store(text.len(), Ordering::Release);
    TEXT.store(text.as_mut_ptr(), Ordering::Release);
    let handler: extern "C" fn(libc::c_int) = interrupted;
    // SAFETY: the function does nothing but what a signal's handler may do.
    unsafe { libc::signal(signal, handler as libc::sighandler_t) };
}
