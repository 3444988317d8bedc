//! `bench`: measures the image beside a Linux guest.

mod disturbances;
mod document;
mod isolation;
pub mod job;
pub mod jobs;
mod load_tools;
pub mod machine;
mod metrics;
mod plot;
mod pure_code;
mod record;
mod stats;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cloister_bed::{Clock, Config};
use cloister_policy::hexadecimal;

use crate::image::{self, DEFAULT_POLICY, Extra};
use crate::stages::Stages;
use crate::{site, workspace};
use job::{Job, Scale};
use machine::{Machine, PAGE_BYTES, Setup, System};
use record::{Reading, Run};

/// The policy of the image in which all services are one program.
const FUSED_POLICY: &str = "tests/guests/fused.toml";

#[derive(Args)]
pub struct Arguments {
    /// Only the measures with targets, once each
    #[arg(long)]
    quick: bool,
    /// The measure of time
    #[arg(long, value_enum, default_value = "icount")]
    regime: Regime,
    /// Only jobs of this name; can be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The policy to build
    #[arg(long, value_name = "FILE", default_value = DEFAULT_POLICY)]
    policy: PathBuf,
    /// Start no more jobs of a regime after this many minutes, except those that come last and
    /// create guests
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Also write docs/benchmarks.md, or docs/benchmarks-wall.md or -host.md for one of these
    /// regimes alone
    #[arg(long)]
    document: bool,
    /// The number of runs of each job; by default 2 with the instruction clock and 7 with the wall
    /// clock, 1 with --quick
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
}

/// Says how time is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Regime {
    /// The number of instructions executed: the same at every run
    Icount,
    /// This machine's clock: many repetitions, alternating
    Wall,
    /// No machine: the instructions of pure code on the host
    Host,
    /// All of them
    All,
}

impl Regime {
    /// Returns the name of the document for a run in this regime.
    fn document(self) -> &'static str {
        match self {
            Regime::Icount | Regime::All => document::MAIN,
            Regime::Wall => "benchmarks-wall",
            Regime::Host => "benchmarks-host",
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let mut stages = Stages::new();
    let mut build = |policy: &Path| image::build_with(policy, &[Extra::Sink], &mut stages);
    let image = build(&arguments.policy)?;
    let fused = is_measured(arguments, &machine::FUSED).then(|| build(Path::new(FUSED_POLICY)));
    let fused = fused.transpose()?;
    let folder = cloister_bed::target_dir().join("bench");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    stages.begin("making the site");
    let page = page();
    let site = site_of(&folder, &page)?;
    let mut run = Run {
        command: command_line(),
        commit: commit(),
        policy: hexadecimal(&image.release.hashes.policy),
        versions: cloister_bed::packages::ensure(&mut |text| stages.begin(text))?.fingerprint(),
        ..Run::default()
    };
    size(&image.elf, &mut run)?;
    for phase in phases(arguments) {
        let setup = Setup {
            image: &image.elf,
            fused: fused.as_ref().map(|fused| fused.elf.as_path()),
            site: site.path(),
            page: &page,
            clock: phase.clock,
            offload: phase.offload,
        };
        if let Err(error) = measure(arguments, &phase, setup, &mut run, &mut stages) {
            stages.done();
            // The readings before the error still count.
            run.omissions.push(format!("{}: ended early: {error:#}", phase.name()));
        }
        run.write(&folder.join("results.json"))?;
    }
    if matches!(arguments.regime, Regime::Host | Regime::All) {
        pure_code::measure(&mut run, &mut stages)?;
    }
    stages.done();
    run.seconds = began.elapsed().as_secs();
    run.write(&folder.join("results.json"))?;
    let report = table::markdown(&run);
    plot::draw(&run, &folder.join("plots"))?;
    std::fs::write(folder.join("results.md"), &report).with_context(|| folder.display().to_string())?;
    println!("{report}");
    if arguments.document {
        println!("{}", document::write(&run, &workspace::root().join("docs"), arguments.regime.document())?.display());
    }
    let failed = run.readings.iter().filter(|reading| reading.error.is_some()).count();
    println!("{} readings, {failed} errors, {} s; {}", run.readings.len(), run.seconds, folder.display());
    let ended_early = run.omissions.iter().any(|omission| omission.contains("ended early"));
    Ok(if ended_early { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A phase of a run: the jobs in one bed.
struct Phase {
    clock: Clock,
    offload: bool,
    scale: Scale,
    repeats: u32,
}

impl Phase {
    fn name(&self) -> String {
        format!("bench-{}{}", regime(self.clock), if self.offload { "" } else { "-plain" })
    }
}

/// The parts of a run. Everything is measured by the instruction clock; by the wall clock, and
/// without offloads, what has targets.
fn phases(arguments: &Arguments) -> Vec<Phase> {
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let phase = |clock, offload, scale, repeats| Phase {
        clock,
        offload,
        scale,
        repeats: arguments.repeat.unwrap_or(if arguments.quick { 1 } else { repeats }),
    };
    let mut phases = Vec::new();
    if matches!(arguments.regime, Regime::Icount | Regime::All) {
        phases.push(phase(Clock::Instructions, true, scale, 2));
        if !arguments.quick {
            phases.push(phase(Clock::Instructions, false, Scale::Quick, 1));
        }
    }
    if matches!(arguments.regime, Regime::Wall | Regime::All) {
        phases.push(phase(Clock::Wall, true, Scale::Quick, 7));
    }
    phases
}

/// Adds the sizes of the files that the toolstack has to load.
fn size(image: &Path, run: &mut Run) -> Result<()> {
    let linux = cloister_bed::linux::files(&page(), &mut |_| {})?;
    for (system, files) in [(machine::CLOISTER, vec![image.to_owned()]), (machine::LINUX, linux)] {
        let bytes = files.iter().map(|file| std::fs::metadata(file).map(|file| file.len())).sum::<Result<u64, _>>()?;
        run.readings.push(Reading {
            metric: &metrics::IMAGE_SIZE,
            regime: "icount",
            offload: true,
            system: system.name,
            load: None,
            repeat: 0,
            value: Some(bytes as f64 / 1024.0),
            error: None,
        });
    }
    Ok(())
}

/// Runs all jobs in one bed.
fn measure(arguments: &Arguments, phase: &Phase, setup: Setup<'_>, run: &mut Run, stages: &mut Stages) -> Result<()> {
    let (name, began) = (phase.name(), Instant::now());
    let late = || arguments.minutes.is_some_and(|minutes| began.elapsed().as_secs() >= 60 * minutes);
    let jobs = selected_jobs(arguments, phase);
    let systems = systems(&jobs);
    let mut machine = Machine::start(setup, &systems, &name, Config::new(&name), &mut |text| stages.begin(text))?;
    // Every job runs once before any runs twice, so that a run out of time has something of all.
    // Jobs that end guests
    let rounds =
        (0..phase.repeats).flat_map(|repeat| jobs.iter().filter(|job| !job.once).map(move |job| (job, repeat)));
    for (job, repeat) in rounds.chain(jobs.iter().filter(|job| job.once).map(|job| (job, 0))) {
        let load = job.load.map(|load| format!(" {}", table::number(load))).unwrap_or_default();
        if late() && !job.once {
            run.omissions.push(format!("{name}: no time for {}{load}, round {}", job.name, repeat + 1));
            continue;
        }
        stages.begin(&format!("{}{load}, round {}", job.name, repeat + 1));
        // A B B A: a drift over time favours none of them.
        let mut order: Vec<_> = job.systems.iter().collect();
        if repeat % 2 == 1 {
            order.reverse();
        }
        for system in order {
            let result = (job.action)(&mut machine, system);
            // A dead bed gives no more numbers; any other error is this job's own.
            machine.bed().alive("measuring")?;
            for (index, metric) in job.metrics.iter().enumerate() {
                run.readings.push(Reading {
                    metric,
                    regime: regime(phase.clock),
                    offload: phase.offload,
                    system: system.name,
                    load: job.load,
                    repeat,
                    value: result.as_ref().ok().and_then(|values| values.get(index).copied()),
                    error: result.as_ref().err().map(|error| format!("{error:#}")),
                });
            }
        }
    }
    stages.done();
    machine.finish();
    Ok(())
}

/// Returns the jobs of a phase that the arguments select.
fn selected_jobs(arguments: &Arguments, phase: &Phase) -> Vec<Job> {
    let named = |job: &Job| arguments.only.is_empty() || arguments.only.iter().any(|only| only == job.name);
    jobs::all(phase.scale, phase.clock).into_iter().filter(named).collect()
}

/// Returns the systems that jobs measure.
fn systems(jobs: &[Job]) -> Vec<System> {
    let mut systems: Vec<System> = Vec::new();
    for system in jobs.iter().flat_map(|job| job.systems) {
        if !systems.contains(system) {
            systems.push(system.clone());
        }
    }
    systems
}

/// Returns `true` if a selected job measures the system.
fn is_measured(arguments: &Arguments, system: &System) -> bool {
    phases(arguments).iter().any(|phase| systems(&selected_jobs(arguments, phase)).contains(system))
}

fn regime(clock: Clock) -> &'static str {
    match clock {
        Clock::Instructions => "icount",
        Clock::Wall => "wall",
    }
}

/// Returns an HTML page of [`PAGE_BYTES`] bytes.
pub fn page() -> Vec<u8> {
    let mut page = b"<!DOCTYPE html><title>bench</title><p>".to_vec();
    page.resize(PAGE_BYTES as usize, b'x');
    page
}

/// Makes the archive of the site, in a temporary file.
pub fn site_of(folder: &Path, page: &[u8]) -> Result<tempfile::NamedTempFile> {
    let files = tempfile::tempdir_in(folder)?;
    write_site(files.path(), page)?;
    site::pack(files.path())
}

/// Writes the page, and files of zeros: their content does not matter.
fn write_site(folder: &Path, page: &[u8]) -> Result<()> {
    std::fs::write(folder.join("page"), page)?;
    std::fs::write(folder.join("index.html"), page)?;
    for (name, size) in [("100k", 100_000), ("1m", 1_000_000), ("10m", 10_000_000), ("100m", 100_000_000)] {
        std::fs::File::create(folder.join(name))?.set_len(size)?;
    }
    Ok(())
}

fn command_line() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask {}", words.join(" "))
}

/// Returns the commit that is measured, with `+` if files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(workspace::root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    if changed { commit + "+" } else { commit }
}
