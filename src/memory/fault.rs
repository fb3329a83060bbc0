//! Survival of a mapping whose file shrank.
//!
//! A front-end keeps the file of its guest's memory and may truncate it, punch it or run its huge-page
//! pool dry at any time. The next access then raises SIGBUS in the thread that copies. There is no way to
//! test for it beforehand, so it is survived:
//!
//! 1. Before a region is used, its address range and the [`FaultFlag`] of its connection are entered in
//!    a table. The entry leaves the table before the region is unmapped.
//! 2. The handler looks the faulting address up. If it is ours, it raises the flag, puts anonymous zero
//!    pages over a little of the region around it and returns; the interrupted instruction runs again and finds zeros.
//!    Whoever reads such a zero, in any thread, sees the flag raised if it looks afterwards.
//! 3. The worker looks at the flag at the end of each burst, publishes nothing of the burst to that
//!    port, and hands the connection to its attendant to be closed.
//!
//! The handler runs at any point of any thread, so it takes no lock and allocates nothing. Each entry is
//! guarded by a sequence number. The handler never retries: the entry of the region that faulted
//! cannot be changing, since the faulting thread is using that region and so keeps it alive; an entry
//! that is changing is therefore another region's, and is passed over.
//!
//! Addresses that are not ours go on to the action that was there before.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering, compiler_fence, fence};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};

/// Why a connection's memory can no longer be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FaultCause {
    /// The file behind a region shrank or could not supply a page (SIGBUS).
    MemoryLost = 1,
    /// An access of ours was out of bounds: a defect of this program, contained.
    OutOfBounds = 2,
}

/// Raised when the memory of one connection failed; shared by all its regions and rings.
///
/// Once raised it stays raised. The first cause is kept.
#[derive(Clone, Debug, Default)]
pub struct FaultFlag(Arc<AtomicU8>);

impl FaultFlag {
    /// A flag that is not raised, for a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the memory of this connection failed, at the latest in an access made before by this thread.
    #[inline]
    #[must_use]
    pub fn raised(&self) -> bool {
        // The handler runs inside an access of this thread: the compiler must finish those first.
        compiler_fence(Ordering::SeqCst);
        // And zeros that another thread's handler put there were read before this.
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) != 0
    }

    /// The first cause, if any.
    #[must_use]
    pub fn cause(&self) -> Option<FaultCause> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(FaultCause::MemoryLost),
            _ => Some(FaultCause::OutOfBounds),
        }
    }

    /// Raises the flag; the first cause wins.
    #[cold]
    pub fn raise(&self, cause: FaultCause) {
        raise(&self.0, cause);
    }
}

/// Async-signal-safe: one compare-and-exchange.
fn raise(flag: &AtomicU8, cause: FaultCause) {
    // A failed exchange means that an earlier cause is already there.
    let _ = flag.compare_exchange(0, cause as u8, Ordering::Release, Ordering::Relaxed);
}

/// Regions in a chunk of the table, and chunks at most: 1,024 ports with 512 regions each.
const CHUNK: usize = 1024;
const CHUNKS: usize = 512;

/// One entry. `sequence` is odd while the others change; `start` is 0 when the entry is free.
#[derive(Default)]
struct Entry {
    sequence: AtomicU32,
    start: AtomicUsize,
    len: AtomicUsize,
    flag: AtomicUsize,
}

/// Chunks are made when needed and never freed, so the handler may read them without a lock.
static TABLE: [OnceLock<Box<[Entry]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];
/// Entries with a number of this or more were never used.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);
/// Numbers below the high-water mark that are free. Never touched by the handler.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Mappings that the process needs for itself, and for halves of regions that the handler splits.
const SPARE_MAPPINGS: usize = 4096;

/// Regions that may exist at once. The kernel allows a process `vm.max_map_count` mappings; if guests could
/// use up the last one, the handler could not map its zero pages but over a whole region.
fn capacity() -> usize {
    static CAPACITY: OnceLock<usize> = OnceLock::new();
    *CAPACITY.get_or_init(|| {
        let setting = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        capacity_for(&setting)
    })
}

pub(super) fn capacity_for(max_map_count: &str) -> usize {
    let mappings = max_map_count.trim().parse().unwrap_or(65_530); // the kernel's default
    let table = CHUNK.saturating_mul(CHUNKS);
    table.min(usize::saturating_sub(mappings, SPARE_MAPPINGS))
}

fn entry(number: usize) -> Option<&'static Entry> {
    let chunk = TABLE.get(number.checked_div(CHUNK)?)?.get()?;
    chunk.get(number.checked_rem(CHUNK)?)
}

/// The presence of a mapping in the table; it leaves the table when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    number: usize,
    /// Keeps the byte alive that the entry points to.
    _flag: FaultFlag,
}

impl Registration {
    /// Enters `len` bytes at `start`. `None` when there are too many regions.
    pub(super) fn enter(start: NonNull<u8>, len: usize, flag: &FaultFlag) -> Option<Self> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match free.pop() {
            Some(number) => number,
            None => {
                let number = HIGH_WATER.load(Ordering::Relaxed);
                if number >= capacity() {
                    return None;
                }
                let chunk = TABLE.get(number.checked_div(CHUNK)?)?;
                chunk.get_or_init(|| (0..CHUNK).map(|_| Entry::default()).collect());
                HIGH_WATER.store(number.checked_add(1)?, Ordering::Release);
                number
            }
        };
        let pointer: *const AtomicU8 = Arc::as_ptr(&flag.0);
        // The lock is still held, so this is the only writer.
        entry(number)?.set(
            start.as_ptr().expose_provenance(),
            len,
            pointer.expose_provenance(),
        );
        Some(Self {
            number,
            _flag: flag.clone(),
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entry(self.number) {
            entry.set(0, 0, 0);
            free.push(self.number);
        }
    }
}

impl Entry {
    /// Writers are serialised by the lock of `FREE`.
    fn set(&self, start: usize, len: usize, flag: usize) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release); // the odd number is seen before any of the new values
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.flag.store(flag, Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// `(start, len, flag)` when `address` lies in it and it is not changing.
    fn covers(&self, address: usize) -> Option<(usize, usize, usize)> {
        let before = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        let flag = self.flag.load(Ordering::Relaxed);
        fence(Ordering::Acquire); // all three were read before the second look at the number
        let stable = before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before;
        (stable && start != 0 && address.wrapping_sub(start) < len).then_some((start, len, flag))
    }
}

fn find(address: usize) -> Option<(usize, usize, usize)> {
    (0..HIGH_WATER.load(Ordering::Acquire)).find_map(|number| entry(number)?.covers(address))
}

/// Puts zero pages over `len` bytes at `start`. Async-signal-safe.
fn blank(start: usize, len: usize) -> bool {
    // SAFETY: mmap is a plain system call and allowed in a handler. The callers pass a range that lies
    // inside a mapping made by `Region::map`, which owns all of it and is alive (see `handler`), so
    // MAP_FIXED replaces nothing else.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::with_exposed_provenance_mut(start),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// Bytes that a fault costs a region at most: few pages to be taken away, and enough that a frame costs few faults.
const PIECE: usize = 64 << 10;

/// The part of a region that lies in the aligned block of `block` bytes (a power of two) around `address`.
fn around(address: usize, block: usize, start: usize, len: usize) -> (usize, usize) {
    let mask = block.wrapping_sub(1);
    let from = (address & !mask).max(start);
    let to = (address | mask).min(start.wrapping_add(len).wrapping_sub(1)); // the last byte
    (from, to.wrapping_sub(from).wrapping_add(1))
}

/// Whether the fault at `address` was in a region of ours and is repaired.
fn repair(address: usize) -> bool {
    let Some((start, len, flag)) = find(address) else {
        return false;
    };
    let flag: *const AtomicU8 = std::ptr::with_exposed_provenance(flag);
    // SAFETY: the entry covers an address that this thread was just accessing, so its region is alive, so
    // its `Registration` is, whose `_flag` keeps this byte alive. `find` returned the three values of
    // one registration (sequence number).
    let flag = unsafe { &*flag };
    raise(flag, FaultCause::MemoryLost);
    // A little, since what is mapped there is taken away by it, and of a whole large guest that lasts for a second. Mappings of
    // huge pages cannot be cut so finely, and a host whose last mapping is taken cannot cut at all: then the whole, which of
    // huge pages goes fast. A host that commits memory strictly may refuse that: then what huge pages can be cut into.
    let part = |block| around(address, block, start, len);
    let parts = [part(PIECE), (start, len), part(2 << 20), part(1 << 30)];
    parts.iter().any(|(start, len)| blank(*start, *len))
}

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALL: Once = Once::new();

/// Installs the SIGBUS handler for the process; later calls do nothing.
///
/// To be called before the first region is mapped ([`Region::map`](super::Region::map) does so itself).
pub fn install_fault_handler() {
    INSTALL.call_once(|| {
        let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null new action only asks for the present one; `previous` is large enough.
        let asked =
            unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), previous.as_mut_ptr()) };
        if asked == 0 {
            // SAFETY: filled by the call above; all-zero would be valid as well (SIG_DFL).
            let previous = unsafe { previous.assume_init() };
            let _ = PREVIOUS.set(previous);
        }
        // SAFETY: all-zero is a valid sigaction (no flags, empty mask, SIG_DFL).
        let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let entry: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handler;
        action.sa_sigaction = entry as libc::sighandler_t;
        // On the alternate stack, where the standard library reports stack overflows too. It has room for two or three frames:
        // no other signal may put its own on top.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the mask is a field of `action`, which is a live local.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
        // SAFETY: `action` is complete; `handler` has the signature that SA_SIGINFO asks for and does
        // only async-signal-safe things. The call fails only for a wrong signal number.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    });
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: no preconditions; async-signal-safe.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: errno is an integer of this thread, and this thread is here.
    let saved = unsafe { errno.read() };
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
    let info_ref = unsafe { &*info };
    // A positive code comes from the kernel; anything else is a signal that somebody sent.
    // SAFETY: for a SIGBUS of the kernel the address field is the one that is set.
    let address = (info_ref.si_code > 0).then(|| unsafe { info_ref.si_addr() }.addr());
    if !address.is_some_and(repair) {
        hand_on(signal, info, context);
    }
    // SAFETY: as above.
    unsafe { errno.write(saved) };
}

/// Does what would have been done without us.
fn hand_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if !call_previous(signal, info, context) {
        set_default(signal);
    }
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
    let sent = unsafe { &*info }.si_code <= 0;
    // An access of ours faults again by itself when the handler returns. A signal that was sent has to be
    // repeated if nobody wants it: the standard library's handler only restores the default action.
    if sent && is_default(signal) {
        // SAFETY: async-signal-safe; the signal stays blocked until the handler returns.
        unsafe { libc::raise(signal) };
    }
}

/// Whether there was a handler before ours; it has run then.
fn call_previous(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) -> bool {
    let Some(previous) = PREVIOUS.get() else {
        return false;
    };
    let address = previous.sa_sigaction;
    if address == libc::SIG_DFL || address == libc::SIG_IGN {
        return false;
    }
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        type Action = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: sigaction(2) returned this address with SA_SIGINFO, and it is neither SIG_DFL nor
        // SIG_IGN, so it is a function of this signature.
        let action = unsafe { std::mem::transmute::<usize, Action>(address) };
        action(signal, info, context);
    } else {
        // SAFETY: as above, without SA_SIGINFO: a function of one integer.
        let action = unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(address) };
        action(signal);
    }
    true
}

fn set_default(signal: libc::c_int) {
    // SAFETY: all-zero is a valid sigaction: no flags, SIG_DFL.
    let default = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    // SAFETY: `default` is complete, and sigaction is async-signal-safe.
    unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
}

fn is_default(signal: libc::c_int) -> bool {
    // SAFETY: all-zero is a valid sigaction.
    let mut now = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    // SAFETY: a null new action only asks for the present one, into a live local.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) };
    now.sa_sigaction == libc::SIG_DFL
}
