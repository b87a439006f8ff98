//! Work on untrusted input within a bound of memory. An allocator may not unwind and the standard library aborts when
//! it returns null, so neither ends work that asks for too much. It runs on a thread of its own instead: the allocation
//! that passes the bound tells the caller and never returns. What that thread holds stays, at most the bound; see
//! docs/decisions/0014.

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Blocks that a job may hold at once. A value nested so deep that no more fit is printed, compared and dropped by
/// recursion, for which a helper's stack has 1 KiB a block.
const MAX_BLOCKS: usize = 1 << 19;
/// Of address space; memory only when used.
const STACK_BYTES: usize = MAX_BLOCKS << 10;

#[derive(Debug)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("out of memory")
    }
}

impl std::error::Error for OutOfMemory {}

struct Meter {
    bytes: Cell<usize>,
    blocks: Cell<usize>,
    /// Whom to tell; null while nothing is bounded.
    caller: Cell<*const Sender<Message>>,
}

type Message = Option<thread::Result<Box<dyn Any + Send>>>;
type Job = Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>;

thread_local! {
    static METER: Meter = const { Meter { bytes: Cell::new(0), blocks: Cell::new(0), caller: Cell::new(ptr::null()) } };
}

impl Meter {
    fn charge(&self, bytes: usize, blocks: usize) {
        if self.caller.get().is_null() {
            return;
        }
        match (
            self.bytes.get().checked_sub(bytes),
            self.blocks.get().checked_sub(blocks),
        ) {
            (Some(bytes), Some(blocks)) => {
                self.bytes.set(bytes);
                self.blocks.set(blocks);
            }
            _ => self.leave(),
        }
    }

    fn refund(&self, bytes: usize, blocks: usize) {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        self.blocks.set(self.blocks.get().saturating_add(blocks));
    }

    fn leave(&self) -> ! {
        let caller = self.caller.replace(ptr::null());
        // SAFETY: `run` keeps the sender alive while `caller` points to it, and below nothing returns to `run`.
        let _ = unsafe { &*caller }.send(None);
        loop {
            thread::park();
        }
    }
}

struct Metered;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

// SAFETY: every call goes to System as it came; charging allocates nothing before it has left the meter.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        METER.with(|meter| meter.charge(layout.size(), 1));
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        METER.with(|meter| meter.charge(layout.size(), 1));
        System.alloc_zeroed(layout)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        METER.with(|meter| meter.refund(layout.size(), 1));
        System.dealloc(block, layout)
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        METER.with(|meter| match new_size.checked_sub(layout.size()) {
            Some(more) => meter.charge(more, 0),
            None => meter.refund(layout.size() - new_size, 0),
        });
        System.realloc(block, layout, new_size)
    }
}

struct Helper {
    jobs: Sender<(usize, Job, Sender<Message>)>,
}

/// Those without a job. One that ran out of memory does not come back.
static IDLE: Mutex<Vec<Helper>> = Mutex::new(Vec::new());

fn run(bytes: usize, job: Job, caller: &Sender<Message>) -> thread::Result<Box<dyn Any + Send>> {
    METER.with(|meter| {
        meter.bytes.set(bytes);
        meter.blocks.set(MAX_BLOCKS);
        meter.caller.set(caller);
        let result = catch_unwind(AssertUnwindSafe(job));
        meter.caller.set(ptr::null());
        result
    })
}

impl Helper {
    fn start() -> std::io::Result<Self> {
        let (jobs, queue): (_, Receiver<(usize, Job, Sender<Message>)>) = mpsc::channel();
        let body = move || {
            for (bytes, job, caller) in queue {
                let result = run(bytes, job, &caller);
                let _ = caller.send(Some(result));
            }
        };
        thread::Builder::new()
            .name("templates".into())
            .stack_size(STACK_BYTES)
            .spawn(body)?;
        Ok(Helper { jobs })
    }
}

/// Runs `job` on another thread, where it may hold `bytes` of memory besides what it comes with. A panic in it goes on in the caller. The error: OutOfMemory, or that no thread could be started.
pub fn confined<T: Send + 'static>(
    bytes: usize,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let helper = idle().pop();
    let helper = helper.map_or_else(Helper::start, Ok)?;
    let (caller, answer) = mpsc::channel();
    let job: Job = Box::new(move || Box::new(job()));
    helper
        .jobs
        .send((bytes, job, caller))
        .map_err(|_| "a helper thread has ended")?;
    let result = answer.recv().ok().flatten().ok_or(OutOfMemory)?;
    idle().push(helper);
    match result {
        Ok(value) => Ok(*value.downcast().expect("a job's result has its type")),
        Err(payload) => std::panic::resume_unwind(payload),
    }
}
