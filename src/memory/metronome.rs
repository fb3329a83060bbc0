//! A tick that interrupts one thread.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::time::Duration;

/// Interrupts a system call in which the calling thread waits, every two milliseconds while it is started.
///
/// It does nothing else: the signal's handler is empty. It exists for [`Call::ring`](super::Call::ring).
/// A system call that is interrupted returns EINTR; calls that the thread makes for other reasons
/// (epoll_wait) must expect it, or the metronome be stopped around them.
///
/// It belongs to the thread that made it and cannot be sent to another.
#[derive(Debug)]
pub struct Metronome {
    timer: libc::timer_t,
    _thread: PhantomData<*mut ()>,
}

/// Time between ticks, and so the longest that a hostile call eventfd can hold up a thread, once.
const PERIOD: Duration = Duration::from_millis(2);

/// A real-time signal that neither glibc nor the standard library uses.
pub(super) fn signal() -> libc::c_int {
    libc::SIGRTMIN().wrapping_add(3)
}

extern "C" fn nothing(_: libc::c_int) {}

fn install_handler() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // SAFETY: all-zero is a valid sigaction (no flags, empty mask, SIG_DFL).
        let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let entry: extern "C" fn(libc::c_int) = nothing;
        action.sa_sigaction = entry as libc::sighandler_t;
        // No SA_RESTART: an interrupted call has to return. No SA_ONSTACK: the alternate stack of a thread has room for two or
        // three frames (of 3.4 KiB, where registers are large), and other signals would put theirs on top of this one's there.
        action.sa_flags = 0;
        // SAFETY: the mask is a field of `action`, which is a live local.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
        // SAFETY: `action` is complete and its handler does nothing.
        unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) };
    });
}

/// A thread inherits the signals that its parent blocked; this one has to arrive.
fn unblock() {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` is large enough.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the call above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal()) };
    // SAFETY: as above; a null pointer for the old mask is allowed.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut()) };
}

impl Metronome {
    /// A metronome for the calling thread, stopped.
    ///
    /// # Errors
    ///
    /// When the kernel has no timer left (RLIMIT_SIGPENDING counts them).
    pub fn new() -> io::Result<Self> {
        install_handler();
        unblock();
        // SAFETY: all-zero is a valid sigevent; the fields that SIGEV_THREAD_ID reads are set below.
        let mut event = unsafe { MaybeUninit::<libc::sigevent>::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers are to live locals of the right types.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            timer,
            _thread: PhantomData,
        })
    }

    /// Starts ticking; starting twice is the same as once.
    pub fn start(&self) {
        self.set(PERIOD);
    }

    /// Stops ticking: the thread may sleep undisturbed.
    pub fn stop(&self) {
        self.set(Duration::ZERO);
    }

    fn set(&self, period: Duration) {
        let every = libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::c_long::from(period.subsec_nanos()),
        };
        let setting = libc::itimerspec {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: `timer` is alive until `self` is dropped, `setting` is a live local.
        let set =
            unsafe { libc::timer_settime(self.timer, 0, &raw const setting, ptr::null_mut()) };
        debug_assert_eq!(set, 0, "a live timer takes any period under a second");
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        // SAFETY: made by timer_create and deleted only here.
        unsafe { libc::timer_delete(self.timer) };
    }
}
