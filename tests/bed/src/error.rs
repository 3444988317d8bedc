//! What can go wrong with the bed. Each variant says what to do, or carries the end of the log that shows the cause.

use std::path::PathBuf;
use std::time::Duration;

/// An error of the bed.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// Debian packages are missing and this user cannot install them.
    #[error("missing Debian packages: {}\ninstall them with:\n    sudo apt-get install --no-install-recommends {}", .0.join(" "), .0.join(" "))]
    MissingPackages(Vec<String>),
    /// A command of the host failed while the bed was prepared.
    #[error("`{command}` failed ({status})\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status, in words.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The distribution's files are not as expected.
    #[error("{0}")]
    Distribution(String),
    /// The port asked for is in use.
    #[error(
        "port {0} on 127.0.0.1 is already in use: stop the program that listens there, or choose another with --port"
    )]
    PortTaken(u16),
    /// QEMU ended by itself.
    #[error("QEMU ended while {during} ({status})\nthe end of {}:\n{tail}", .log.display())]
    QemuEnded {
        /// What was going on.
        during: String,
        /// Its exit status, in words.
        status: String,
        /// The log with the cause.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// Xen or dom0 died.
    #[error("{what} died while {during}\nthe end of {}:\n{tail}", .log.display())]
    Died {
        /// Xen or dom0.
        what: &'static str,
        /// What was going on.
        during: String,
        /// The log with the cause.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// A stage took longer than it may.
    #[error("{during} took more than {limit:?}\nthe end of {}:\n{tail}", .log.display())]
    Timeout {
        /// What was going on.
        during: String,
        /// The limit.
        limit: Duration,
        /// The log that may show the cause.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// dom0's own start-up failed.
    #[error("dom0 did not start: {reason}\nthe end of {}:\n{tail}", .log.display())]
    Dom0 {
        /// What dom0 said.
        reason: String,
        /// dom0's log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// A command in dom0 failed.
    #[error("in dom0, `{command}` failed (status {status})\n{output}\nthe end of {}:\n{tail}", .log.display())]
    InDom0 {
        /// The command line.
        command: String,
        /// Its exit status.
        status: i32,
        /// What it printed.
        output: String,
        /// The log that may show the cause.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// The guest ended although it should run.
    #[error("the guest {name} ended while {during}\nthe end of {}:\n{tail}", .log.display())]
    GuestEnded {
        /// The guest's name.
        name: String,
        /// What was going on.
        during: String,
        /// The guest's console log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// Someone asked for the bed to stop.
    #[error("stopped while {0}")]
    Stopped(String),
}

/// Adds the path to an I/O error.
pub(crate) trait AtPath<T> {
    /// The error names the path.
    fn at(self, path: impl Into<PathBuf>) -> Result<T, BedError>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, BedError> {
        self.map_err(|source| BedError::File { path: path.into(), source })
    }
}
