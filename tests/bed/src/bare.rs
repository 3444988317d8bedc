//! Runs an image under QEMU without Xen, an environment that it does not support.

use std::path::Path;
use std::time::Duration;

use crate::error::AtPath;
use crate::log::printable;
use crate::qemu::Qemu;
use crate::{BedError, Progress, bed_dir, packages};

/// The result of a run.
#[derive(Debug)]
pub struct Run {
    /// Bytes written to port 0xE9.
    pub debug_port: String,
    /// Bytes written to the first serial port.
    pub serial: String,
    /// QEMU's exit code, if the machine ended by itself: `2 * value + 1` for a value written to
    /// port 0xF4, 0 for a power-off or a reset (such as a triple fault).
    pub code: Option<i32>,
}

/// Runs `image` until the machine ends or `limit` is over. Runs at the same time need different
/// values of `name`.
pub fn run(
    name: &str,
    image: &Path,
    cmdline: &str,
    limit: Duration,
    progress: &mut Progress<'_>,
) -> Result<Run, BedError> {
    packages::ensure(progress)?;
    let folder = bed_dir().join("runs").join(format!("bare-{name}"));
    std::fs::create_dir_all(&folder).at(&folder)?;
    let (debug_port, serial) = (folder.join("debug.log"), folder.join("serial.log"));
    let file = |path: &Path| format!("file:{}", path.display());
    let arguments = ["-accel", "tcg", "-cpu", "max", "-m", "256", "-display", "none", "-monitor", "none", "-no-reboot"]
        .map(str::to_owned)
        .into_iter()
        .chain(["-debugcon".to_owned(), file(&debug_port), "-serial".to_owned(), file(&serial)])
        .chain(["-device".to_owned(), "isa-debug-exit,iobase=0xf4,iosize=4".to_owned()])
        .chain(["-kernel".to_owned(), image.to_string_lossy().into_owned(), "-append".to_owned(), cmdline.to_owned()]);
    progress("running without Xen");
    let qemu = Qemu::spawn(arguments.collect(), &folder.join("qemu.log"))?;
    let code = qemu.wait(limit).and_then(|ended| ended.code);
    drop(qemu);
    let text = |path: &Path| std::fs::read(path).at(path).map(|bytes| printable(&bytes));
    Ok(Run { debug_port: text(&debug_port)?, serial: text(&serial)?, code })
}
