//! The errors of the bed. The message of each says what to do, or contains the end of the log that
//! shows the cause.

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
        /// The exit status, in words.
        status: String,
        /// The end of the output.
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
        /// The stage.
        during: String,
        /// The exit status, in words.
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
        /// The stage.
        during: String,
        /// The log with the cause.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// A stage took longer than it may.
    #[error("{during} took more than {limit:?}\nthe end of {}:\n{tail}", .log.display())]
    Timeout {
        /// The stage.
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
        /// The message of dom0.
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
        /// The output.
        output: String,
        /// The log that may show the cause.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// The guest ended unexpectedly.
    #[error("the guest {name} ended while {during}\nthe end of {}:\n{tail}", .log.display())]
    GuestEnded {
        /// The guest's name.
        name: String,
        /// The stage.
        during: String,
        /// The guest's console log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// QEMU's stub for gdb did not do what it was asked to.
    #[error("QEMU's stub for gdb: {0}")]
    Debugger(String),
    /// The bed was asked to stop.
    #[error("stopped while {0}")]
    Stopped(String),
}

/// Adds the path to an I/O error.
pub(crate) trait AtPath<T> {
    /// Returns the result with an error that names the path.
    fn at(self, path: impl Into<PathBuf>) -> Result<T, BedError>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T, BedError> {
        self.map_err(|source| BedError::File { path: path.into(), source })
    }
}
