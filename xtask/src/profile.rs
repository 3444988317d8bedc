//! `profile`: draws where the services spend their time under a load, as a flame graph.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use cloister_bed::{Clock, Config};

use crate::bench::job::{Job, Scale};
use crate::bench::jobs;
use crate::bench::machine::{CLOISTER, Machine, Setup};
use crate::bench::{page, site_of};
use crate::image::{self, DEFAULT_POLICY, Extra};
use crate::stages::Stages;
use crate::symbolize::Symbols;

#[derive(Args)]
pub struct Arguments {
    /// The job of `bench` that makes the load
    #[arg(value_name = "JOB", default_value = "requests")]
    job: String,
    /// The job's load, if it has one: connections or bytes
    #[arg(long, value_name = "N", default_value_t = 30.0)]
    load: f64,
    /// The policy to build
    #[arg(long, value_name = "FILE", default_value = DEFAULT_POLICY)]
    policy: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let jobs = jobs::all(Scale::Quick, Clock::Instructions);
    let fits = |job: &&Job| job.name == arguments.job && job.load.is_none_or(|load| load == arguments.load);
    let Some(job) = jobs.iter().find(fits) else {
        let known = jobs
            .iter()
            .map(|job| format!("{}{}", job.name, job.load.map(|load| format!(" {load}")).unwrap_or_default()));
        bail!(
            "there is no job {} {}; there are: {}",
            arguments.job,
            arguments.load,
            known.collect::<Vec<_>>().join(", ")
        );
    };
    let mut stages = Stages::new();
    let image = image::build_with(&arguments.policy, &[Extra::Profile, Extra::Sink], &mut stages)?;
    let folder = cloister_bed::target_dir().join("profile");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let page = page();
    let site = site_of(&folder, &page)?;
    let clock = Clock::Instructions;
    let setup = Setup { image: &image.elf, fused: None, site: site.path(), page: &page, clock, offload: true };
    let config = Config::new("profile");
    let mut machine = Machine::start(setup, &[CLOISTER], "profile", config, &mut |text| stages.begin(text))?;
    stages.begin(&format!("{} {}", arguments.job, arguments.load));
    // A report clears the samples: those from before the load are discarded.
    machine.samples()?;
    (job.action)(&mut machine, &CLOISTER)?;
    let text = machine.samples()?;
    stages.done();
    machine.finish();
    let stacks = stacks(&text, &mut Symbols::new(image.folder))?;
    ensure!(!stacks.is_empty(), "the image took no samples: the load is too light for any");
    let picture = folder.join(format!("{}-{}.svg", arguments.job, arguments.load));
    draw(&stacks, &format!("{} {}", arguments.job, arguments.load), &picture)?;
    print!("{}", summary(&stacks));
    println!("{}", picture.display());
    Ok(ExitCode::SUCCESS)
}

/// Returns folded stacks and the number of samples of each, from lines `profile: SERVICE ADDRESS
/// TIMES`.
fn stacks(text: &str, symbols: &mut Symbols) -> Result<BTreeMap<String, u64>> {
    let mut stacks = BTreeMap::new();
    for line in text.lines() {
        let Some((_, sample)) = line.split_once("profile: ") else { continue };
        let words: Vec<&str> = sample.split_whitespace().collect();
        let [service, address, times] = words[..] else { continue };
        let address = address.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let (Some(address), Ok(times)) = (address, times.parse::<u64>()) else { continue };
        let mut frames = symbols.functions(service, address)?;
        frames.push(service.to_owned());
        frames.reverse();
        let stack: Vec<String> = frames.iter().map(|frame| frame.replace(';', ",")).collect();
        *stacks.entry(stack.join(";")).or_insert(0) += times;
    }
    Ok(stacks)
}

fn draw(stacks: &BTreeMap<String, u64>, title: &str, file: &std::path::Path) -> Result<()> {
    let lines: Vec<String> = stacks.iter().map(|(stack, times)| format!("{stack} {times}")).collect();
    let mut options = inferno::flamegraph::Options::default();
    options.title = format!("Services under {title}: samples");
    let mut picture = Vec::new();
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut picture)
        .context("the flame graph")?;
    std::fs::write(file, picture).with_context(|| file.display().to_string())
}

/// Returns a text with each service's samples, and its functions with the most samples.
fn summary(stacks: &BTreeMap<String, u64>) -> String {
    const MOST: usize = 12;
    let mut services: BTreeMap<&str, (u64, BTreeMap<&str, u64>)> = BTreeMap::new();
    for (stack, times) in stacks {
        let (service, rest) = stack.split_once(';').unwrap_or((stack, "?"));
        let (total, functions) = services.entry(service).or_default();
        *total += times;
        *functions.entry(rest.rsplit(';').next().unwrap_or(rest)).or_default() += times;
    }
    let all: u64 = stacks.values().sum();
    let mut text = String::new();
    for (service, (total, functions)) in services {
        text.push_str(&format!("{service}: {total} of {all} samples\n"));
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        for (function, times) in functions.into_iter().take(MOST) {
            text.push_str(&format!("  {:5.1} %  {function}\n", times as f64 * 100.0 / total as f64));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_stacks_and_other_lines_do_not() {
        let folder = tempfile::tempdir().expect("folder");
        let mut symbols = Symbols::new(folder.path().to_owned());
        let text = "boot\nprofile: tcpip 0x5000010 3\r\nprofile: lost 0\nprofile: tcpip 0x5000020 2\nprofile: x y z\n";
        let stacks = stacks(text, &mut symbols).expect("stacks");
        assert_eq!(stacks.len(), 1, "without symbols all addresses of a program are one");
        assert_eq!(stacks.values().sum::<u64>(), 5);
        assert!(summary(&stacks).starts_with("tcpip: 5 of 5 samples\n"), "{}", summary(&stacks));
    }

    #[test]
    fn a_flame_graph_names_its_functions() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("graph.svg");
        let stacks = BTreeMap::from([("http;serve;find".to_owned(), 3), ("http;serve".to_owned(), 1)]);
        draw(&stacks, "a test", &file).expect("drawn");
        let picture = std::fs::read_to_string(&file).expect("a picture");
        assert!(picture.contains("find") && picture.contains("</svg>"));
    }
}
