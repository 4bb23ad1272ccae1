//! Work that runs in the background of a story.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A thread that is told to end, and joined, when this is dropped.
pub struct Background {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work`, which must return soon after its argument has become true.
    pub fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Background {
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&done);
        Background {
            done,
            thread: Some(thread::spawn(move || work(&seen))),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
