//! Copies of job output on this process's stdout (job-runner §6.7). A thread of its own writes them: a reader that does not read
//! must not keep the agent from its heartbeats, or the job from its end (W21).

use std::cell::OnceCell;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Bytes that wait to be written. Beyond it nobody reads, and the output counts as failed.
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Texts that wait to be written; the same beyond it.
const WAITING_TEXTS: usize = 16 * 1024;
/// How long the end of the process waits for what is not written yet.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The writer; its thread begins with the first bytes.
#[derive(Debug, Default)]
pub(super) struct Stdout {
    thread: OnceCell<Thread>,
}

#[derive(Debug)]
struct Thread {
    /// `None` when nothing follows.
    sender: Option<mpsc::SyncSender<Vec<u8>>>,
    shared: Arc<Shared>,
    /// Says nothing; disconnected when the thread has ended.
    ended: mpsc::Receiver<()>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    failure: Mutex<Option<String>>,
}

impl Stdout {
    /// Hands `text` over. An error is that of a text before, or says that nobody reads.
    pub(super) fn write(&self, text: Vec<u8>) -> Result<(), String> {
        let thread = self.thread.get_or_init(|| Thread::begin(std::io::stdout()));
        if let Some(failure) = thread.shared.failure.lock().ok().and_then(|f| f.clone()) {
            return Err(failure);
        }
        let length = text.len();
        let waiting = thread.shared.waiting.fetch_add(length, Ordering::Relaxed);
        let full = || {
            // What is not taken does not wait: the output of the next job may find a reader again.
            thread.shared.waiting.fetch_sub(length, Ordering::Relaxed);
            Err(format!("{waiting} bytes wait for a reader"))
        };
        if waiting + length > WAITING_BYTES {
            return full();
        }
        match thread.sender.as_ref().map(|s| s.try_send(text)) {
            Some(Err(mpsc::TrySendError::Full(_))) => full(),
            // The thread ends only by a failure, which the next text is told.
            _ => Ok(()),
        }
    }
}

impl Thread {
    fn begin(mut out: impl Write + Send + 'static) -> Thread {
        let (sender, texts) = mpsc::sync_channel::<Vec<u8>>(WAITING_TEXTS);
        let (alive, ended) = mpsc::sync_channel(0);
        let shared = Arc::<Shared>::default();
        let its = shared.clone();
        std::thread::spawn(move || {
            let _alive: mpsc::SyncSender<()> = alive;
            for text in texts {
                if let Err(e) = out.write_all(&text).and_then(|()| out.flush()) {
                    if let Ok(mut failure) = its.failure.lock() {
                        *failure = Some(e.to_string());
                    }
                    return;
                }
                its.waiting.fetch_sub(text.len(), Ordering::Relaxed);
            }
        });
        Thread { sender: Some(sender), shared, ended }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.sender = None;
        // Disconnected: everything is written. Otherwise time is over.
        let _ = self.ended.recv_timeout(LAST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a text only when it is told to.
    struct Gate(mpsc::Receiver<()>, Arc<AtomicUsize>);

    impl Write for Gate {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            // Nobody tells any more: the test is over.
            let _ = self.0.recv();
            self.1.fetch_add(data.len(), Ordering::SeqCst);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn w21_what_is_refused_while_nobody_reads_is_not_held_against_the_next_job() {
        const MIB: usize = 1024 * 1024;
        let (read, told) = mpsc::sync_channel(64);
        let written = Arc::<AtomicUsize>::default();
        let stdout = Stdout { thread: OnceCell::from(Thread::begin(Gate(told, written.clone()))) };
        let taken = (0..100).filter(|_| stdout.write(vec![b'x'; MIB]).is_ok()).count();
        assert_eq!(taken * MIB, WAITING_BYTES);
        assert_eq!(stdout.write(vec![b'x'; MIB]), Err(format!("{WAITING_BYTES} bytes wait for a reader")));
        (0..taken + 1).for_each(|_| read.send(()).expect("the writer waits"));
        // The count falls when a write has returned.
        let waiting = &stdout.thread.get().expect("a thread").shared.waiting;
        while waiting.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(stdout.write(vec![b'x'; MIB]), Ok(()));
        drop(stdout);
        assert_eq!(written.load(Ordering::SeqCst), (taken + 1) * MIB);
    }
}
