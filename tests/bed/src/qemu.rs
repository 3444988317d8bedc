//! A QEMU process that never outlives its parent.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::BedError;
use crate::error::AtPath;

/// A running QEMU. Dropping it kills the process.
pub(crate) struct Qemu {
    pid: Pid,
    state: Arc<State>,
    log: PathBuf,
}

/// The end of QEMU; `None` while it runs. Locked while the process is reaped, so that under the
/// lock the process id cannot belong to another process.
#[derive(Default)]
struct State {
    ended: Mutex<Option<Ended>>,
    changed: Condvar,
}

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The end in words.
    pub status: String,
    /// The exit code, unless a signal ended the process.
    pub code: Option<i32>,
}

impl Qemu {
    /// Starts QEMU with its messages in `log`.
    ///
    /// The thread that starts it lives as long as QEMU does, because the kernel ties the death
    /// signal to that thread, not to the whole program.
    pub fn spawn(arguments: Vec<String>, log: &Path) -> Result<Self, BedError> {
        let messages = File::create(log).at(log)?;
        let state = Arc::new(State::default());
        let (sender, receiver) = mpsc::channel();
        let theirs = Arc::clone(&state);
        std::thread::spawn(move || match command(&arguments, messages).spawn() {
            Ok(child) => {
                // The receiver waits for exactly this message.
                let _ = sender.send(Ok(child.id()));
                watch(child, &theirs);
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        });
        let started = receiver.recv().unwrap_or_else(|_| Err(std::io::Error::other("the starting thread ended")));
        let pid = started.at("qemu-system-x86_64")?;
        Ok(Self { pid: Pid::from_raw(pid.cast_signed()), state, log: log.to_owned() })
    }

    /// Returns how it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.lock().clone()
    }

    /// Returns QEMU's own messages.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until it ends, for at most `limit`.
    pub fn wait(&self, limit: Duration) -> Option<Ended> {
        let until = Instant::now() + limit;
        let mut ended = self.lock();
        while ended.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            ended = self.state.changed.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        ended.clone()
    }

    /// Asks it to end, and kills it if it has not ended within `grace`.
    pub fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if self.wait(grace).is_none() {
            self.signal(Signal::SIGKILL);
            self.wait(Duration::from_secs(10));
        }
    }

    fn signal(&self, signal: Signal) {
        let ended = self.lock();
        if ended.is_none() {
            // It fails only if the process is a zombie that is about to be reaped, and so has
            // ended.
            let _ = kill(self.pid, signal);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Ended>> {
        self.state.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(10));
    }
}

/// Returns the command that starts QEMU. `setpriv` (util-linux) sets `PR_SET_PDEATHSIG` and becomes
/// QEMU. QEMU gets its own process group, so that only the parent receives a terminal's Ctrl-C. The
/// parent then shuts down in order.
fn command(arguments: &[String], messages: File) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages).process_group(0);
    command
}

fn watch(mut child: Child, state: &State) {
    let pid = Pid::from_raw(child.id().cast_signed());
    // Waits without reaping, so that the lock is held only for the moment of reaping.
    while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {}
    let mut ended = state.ended.lock().unwrap_or_else(PoisonError::into_inner);
    *ended = Some(match child.wait() {
        Ok(status) => Ended { status: status.to_string(), code: status.code() },
        Err(error) => Ended { status: error.to_string(), code: None },
    });
    state.changed.notify_all();
}

/// Joins QEMU's comma-separated options. A comma inside a value is doubled.
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(escape("/a,b/c"), "/a,,b/c");
    }
}
