//! What goes on beside a story.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A thread that is told to end when this is dropped, and waited for.
pub struct Background {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work`, which is to return soon after what it is given has become true.
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
