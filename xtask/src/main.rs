//! The project's commands: build the image, boot it on real Xen, test it, package it.
#![forbid(unsafe_code)]

mod backend_domain;
mod bench;
mod boot;
mod build;
mod clamped_code;
mod compromised;
mod dependencies;
mod dist;
mod fuzz;
mod guest_address;
mod image;
mod inventory;
mod judge;
mod kernel;
mod miri;
mod mutants;
mod parallel;
mod profile;
mod rebuild;
mod site;
mod stages;
mod symbolize;
mod test;
mod unsafe_counts;
mod verify;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, boots, tests and packages the Cloister image", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the image of a policy: kernel, services and capability tables in one ELF file
    Build(build::Arguments),
    /// Build the image and boot it on real Xen (in QEMU, with a Linux dom0); prints the URL it
    /// serves
    Boot(boot::Arguments),
    /// Measure the image beside a Linux guest, and write tables and plots
    Bench(bench::Arguments),
    /// Draw where the services spend their time under a load of `bench`, as a flame graph
    Profile(profile::Arguments),
    /// Run the tests: on the host, and on real Xen
    Test(test::Arguments),
    /// Fuzz every interface of the image with libFuzzer: shows executions, coverage and crashes of
    /// each target
    Fuzz(fuzz::Arguments),
    /// Run the tests of the crates that run on the host under Miri, which finds undefined behaviour
    Miri(miri::Arguments),
    /// Change the code in small ways with cargo-mutants, and list the changes that no test notices
    Mutants(mutants::Arguments),
    /// Make a folder with everything that a real Xen host needs to run the image
    Dist(dist::Arguments),
    /// Add function, file and line to the fault reports in a log
    Symbolize(symbolize::Arguments),
    /// Build the image and run it directly under Xen, without dom0 and network (the fast loop for
    /// kernel work)
    Kernel(kernel::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Build(arguments) => build::run(&arguments),
        Command::Boot(arguments) => boot::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Miri(arguments) => miri::run(&arguments),
        Command::Mutants(arguments) => mutants::run(&arguments),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::Symbolize(arguments) => symbolize::run(&arguments),
        Command::Kernel(arguments) => kernel::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{} {error:#}", console::style("error:").red().bold().for_stderr());
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn boot_takes_what_the_readme_names() {
        let line = "xtask boot --site www --policy p.toml --memory 8 --cmdline ip=dhcp --port 8081 --exec true --gdb";
        assert!(Arguments::try_parse_from(line.split(' ')).is_ok());
        assert!(Arguments::try_parse_from(["xtask", "boot", "--memory", "none"]).is_err());
        assert!(Arguments::try_parse_from(["xtask", "boot", "--port", "70000"]).is_err());
    }

    #[test]
    fn host_and_xen_tests_exclude_each_other() {
        assert!(Arguments::try_parse_from(["xtask", "test", "--host", "--xen"]).is_err());
        assert!(Arguments::try_parse_from(["xtask", "test", "--xen"]).is_ok());
    }
}
