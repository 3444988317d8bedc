//! `boot`: builds the image and boots it on real Xen.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use cloister_bed::guest::State;
use cloister_bed::log::Follower;
use cloister_bed::{Bed, BedError, Config, Guest, port};

use crate::guest_address::GuestAddress;
use crate::image::{self, DEFAULT_POLICY, Image};
use crate::site;
use crate::stages::Stages;

/// The port of the gdb stub.
const GDB_PORT: u16 = 1234;
/// The guest's memory in MiB, without the site's archive.
const OWN_MIB: u32 = 64;
/// The longest time for the guest to answer; software emulation on a busy machine is slow.
const READY: Duration = Duration::from_secs(90);
/// The exit status of a program that Ctrl-C ended, by the convention of shells.
const INTERRUPTED: u8 = 130;

#[derive(Args)]
pub struct Arguments {
    /// A folder to serve, instead of the built-in page
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// The policy to build
    #[arg(long, value_name = "FILE", default_value = DEFAULT_POLICY)]
    policy: PathBuf,
    /// The guest's memory; by default enough for the site
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    memory: Option<u32>,
    /// The guest's command line, instead of the one --net makes
    #[arg(long, value_name = "S")]
    cmdline: Option<String>,
    /// Where the guest's address comes from
    #[arg(long, value_enum, default_value = "static", conflicts_with = "cmdline")]
    net: GuestAddress,
    /// The port of 127.0.0.1 to serve on; 0 for any free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Run this with `sh -c` once the image serves (CLOISTER_URL is set), then shut down and exit
    /// with its status
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Leave a gdb stub on 127.0.0.1:1234
    #[arg(long)]
    gdb: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // The port and the site come before the build: a mistake in them is found at once, not after
    // minutes.
    let port = port::choose(arguments.port)?;
    let mut stages = Stages::new();
    let archive = match &arguments.site {
        Some(folder) => {
            stages.begin("packing the site");
            Some(site::pack(folder)?)
        }
        None => None,
    };
    let image = image::build(&arguments.policy, &mut stages)?;
    let guest = guest(arguments, &image, archive.as_ref().map(tempfile::NamedTempFile::path))?;
    let stop = stop_on_signal()?;
    let gdb = arguments.gdb.then_some(GDB_PORT);
    let config = Config { port, gdb, stop: Arc::clone(&stop), ..Config::for_guest(&run_name(port), &guest) };
    match boot(arguments, &config, &guest, &image, &mut stages) {
        Err(error) if matches!(error.downcast_ref(), Some(BedError::Stopped(_))) => Ok(ExitCode::from(INTERRUPTED)),
        other => other,
    }
}

/// Returns the name of the run. Two boots beside each other differ in the port.
fn run_name(port: u16) -> String {
    format!("boot-{port}")
}

fn guest(arguments: &Arguments, image: &Image, archive: Option<&Path>) -> Result<Guest> {
    let size = archive.map_or(Ok(0), |path| std::fs::metadata(path).map(|m| m.len()))?;
    let site_mib = u32::try_from(size.div_ceil(1 << 20)).context("the site is too large for a guest")?;
    Ok(Guest {
        ramdisk: archive.map(Path::to_owned),
        cmdline: arguments.cmdline.clone().unwrap_or_else(|| arguments.net.cmdline().to_owned()),
        memory: arguments.memory.unwrap_or(OWN_MIB + site_mib),
        ..Guest::new(&image.elf)
    })
}

fn boot(arguments: &Arguments, config: &Config, guest: &Guest, image: &Image, stages: &mut Stages) -> Result<ExitCode> {
    let bed = Bed::start(config, &mut |text| stages.begin(text))?;
    if arguments.gdb {
        stages.say(&gdb_help(image));
    }
    let served = serve(arguments, &bed, guest, stages);
    // Shuts down on every way out. After an error of the bed itself there is nothing to shut down;
    // dropping it ends QEMU.
    match served.as_ref().err().and_then(|error| error.downcast_ref::<BedError>()) {
        Some(BedError::QemuEnded { .. } | BedError::Died { .. }) => drop(bed),
        _ => {
            stages.begin("shutting down");
            bed.finish(&[&guest.name]);
            stages.done();
        }
    }
    served
}

fn serve(arguments: &Arguments, bed: &Bed, guest: &Guest, stages: &mut Stages) -> Result<ExitCode> {
    bed.create(guest, &mut |text| stages.begin(text))?;
    bed.wait_for_http(guest, READY, &mut |text| stages.begin(text))?;
    stages.done();
    stages.say(&format!("logs: {}", bed.folder().display()));
    match &arguments.exec {
        Some(command) => exec(command, bed),
        None => {
            writeln!(std::io::stdout(), "{}", bed.url())?;
            stages.say("Ctrl-C stops it; the guest's console follows");
            follow(bed, guest)
        }
    }
}

/// Prints the guest's console until Ctrl-C, or until the guest ends.
fn follow(bed: &Bed, guest: &Guest) -> Result<ExitCode> {
    let mut console = Follower::new(bed.guest_log(&guest.name));
    let mut looks = 0u32;
    loop {
        for line in console.lines() {
            // A closed pipe, as in `boot | head`, ends it like Ctrl-C.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        match bed.alive("the image was serving") {
            Err(BedError::Stopped(_)) => return Ok(ExitCode::SUCCESS),
            other => other?,
        }
        looks += 1;
        // A guest that somebody else shut down has ended well; one that crashed has not.
        if looks.is_multiple_of(50) {
            match bed.state(&guest.name) {
                Ok(State::Gone) => return Ok(ExitCode::SUCCESS),
                Ok(State::Crashed) => return Err(bed.guest_ended(guest, "it was serving").into()),
                Err(BedError::Stopped(_)) => return Ok(ExitCode::SUCCESS),
                other => other.map(drop)?,
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs the user's command while the image serves.
fn exec(command: &str, bed: &Bed) -> Result<ExitCode> {
    let mut child =
        Command::new("sh").args(["-c", command]).env("CLOISTER_URL", bed.url()).spawn().context("sh cannot be run")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(exit_code(status));
        }
        match bed.alive("the command of --exec ran") {
            // Ctrl-C reaches the command too, which decides for itself.
            Ok(()) | Err(BedError::Stopped(_)) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                // The command would wait for a machine that is gone.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error.into());
            }
        }
    }
}

/// Returns a command's exit status as shells report it: 128 plus the signal's number if a signal
/// killed it.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn gdb_help(image: &Image) -> String {
    let folder = image.folder.display();
    let mut text =
        format!("attach with:\n    gdb -ex 'target remote localhost:{GDB_PORT}' -ex 'symbol-file {folder}/kernel.elf'");
    for service in &image.services {
        text += &format!(" -ex 'add-symbol-file {folder}/{service}.elf'");
    }
    text + "\nuse `hbreak`: Xen and dom0 run on the same processor, and software breakpoints need the guest's pages"
}

/// Handles signals: the first Ctrl-C or SIGTERM asks for an orderly end, the second ends at once.
/// QEMU ends with this process.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let requested = AtomicBool::new(false);
    let flag = Arc::clone(&stop);
    let handler = move || {
        if requested.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        flag.store(true, Ordering::SeqCst);
    };
    ctrlc::set_handler(handler).context("signals cannot be handled")?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_status_is_passed_on() {
        let status = |script: &str| Command::new("sh").args(["-c", script]).status().expect("sh");
        assert_eq!(exit_code(status("exit 7")), ExitCode::from(7));
        assert_eq!(exit_code(status("kill -9 $$")), ExitCode::from(137));
    }

    #[test]
    fn the_guest_has_room_for_the_site() {
        let archive = tempfile::NamedTempFile::new().expect("file");
        archive.as_file().set_len(110 * 1_000_000).expect("size");
        let image = Image { folder: "/x".into(), services: vec!["http".to_owned()], ..Image::empty() };
        let arguments = Arguments {
            site: None,
            policy: "p".into(),
            memory: None,
            cmdline: None,
            net: GuestAddress::Dhcp,
            port: 0,
            exec: None,
            gdb: false,
        };
        let large = guest(&arguments, &image, Some(archive.path())).expect("guest");
        assert_eq!((large.memory, large.cmdline.as_str()), (OWN_MIB + 105, "ip=dhcp"));
        let small = guest(&Arguments { memory: Some(8), ..arguments }, &image, None).expect("guest");
        assert_eq!((small.memory, small.ramdisk), (8, None));
        assert!(gdb_help(&image).contains("add-symbol-file /x/http.elf"));
    }
}
