//! `dist`: makes a folder with everything that a real Xen host needs to run the image.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use cloister_bed::Guest;
use cloister_policy::hexadecimal;
use cloister_policy::release::{Release, hash_of};
use sha2::{Digest, Sha256};

use crate::backend_domain::PolicyArguments;
use crate::image::{self, Image};
use crate::stages::Stages;

#[derive(Args, Debug)]
pub struct Arguments {
    /// The folder to make; by default target/dist, or target/dist-backend-N with --backend N
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    policy: PolicyArguments,
}

impl Arguments {
    /// Returns the folder to make.
    fn folder(&self) -> PathBuf {
        let ours = || {
            let suffix = self.policy.ids().map_or_else(String::new, |ids| format!("-backend-{ids}"));
            cloister_bed::target_dir().join(format!("dist{suffix}"))
        };
        self.out.clone().unwrap_or_else(ours)
    }
}

/// The folder on the host into which INSTALL.md puts the image.
const INSTALL_FOLDER: &str = "/srv/cloister";
const INSTALL: &str = include_str!("INSTALL.md");

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // The folder comes before the build: a mistake in its name is found at once, not after minutes.
    let folder = arguments.folder();
    std::fs::create_dir_all(&folder).with_context(|| format!("--out {}", folder.display()))?;
    let mut stages = Stages::new();
    let image = image::build(&arguments.policy.file()?, &mut stages)?;
    stages.begin("writing the folder");
    let config = config(arguments.policy.domain());
    let release = Release { configuration: Some(hash_of(config.as_bytes())), ..image.release.clone() };
    let files = [
        ("cloister.elf", read(&image.elf)?),
        ("cloister.cfg", config.clone().into_bytes()),
        ("policy.toml", read(&image.policy)?),
        ("release.toml", release.text().into_bytes()),
        ("INSTALL.md", install(&image).into_bytes()),
    ];
    write(&folder, &files)?;
    stages.done();
    println!("{}", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn write(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let put = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())
    };
    let mut sums = String::new();
    for (name, content) in files {
        put(name, content)?;
        sums += &format!("{}  {name}\n", hexadecimal(&Sha256::digest(content)));
    }
    // `sha256sum -c` reads this form.
    put("SHA256SUMS", sums.as_bytes())
}

/// Returns the `xl` configuration: the guest as it is tested, but with DHCP and a restart after a
/// crash.
///
/// `backend` is the domain of the network back end, if it is not the control domain.
pub fn config(backend: Option<&str>) -> String {
    let guest = Guest { cmdline: "ip=dhcp".to_owned(), on_crash: "restart".to_owned(), mac: None, ..Guest::new("") };
    let backend = backend.map_or_else(String::new, |domain| format!(",backend={domain}"));
    let extra = format!(
        "# A site to serve: a cpio (newc) or tar archive. Give the guest memory for it.\n\
                 #ramdisk = \"/srv/cloister/site.cpio\"\n\
                 # mac=… keeps the address the same; bridge= names this host's bridge.\n\
                 vif = [ \"bridge=xenbr0{backend}\" ]\n"
    );
    let text = guest.config(&format!("{INSTALL_FOLDER}/cloister.elf"), None);
    format!("{}\n{extra}", text.trim_end())
}

fn install(image: &Image) -> String {
    let hashes = &image.release.hashes;
    let text = INSTALL.replace("@HASH@", &hexadecimal(&hashes.policy));
    text.replace("@TABLES@", &hexadecimal(&hashes.tables)).replace("@PLACE@", INSTALL_FOLDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_for_a_host_with_a_bridge() {
        let text = config(None);
        for line in [
            "kernel = \"/srv/cloister/cloister.elf\"",
            "vif = [ \"bridge=xenbr0\" ]",
            "on_crash = \"restart\"",
            "vcpus = 1",
        ] {
            assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{line} in\n{text}");
        }
    }

    #[derive(clap::Parser, Debug)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn each_back_end_has_its_own_folder() {
        for (words, end) in [
            (&["dist"][..], "dist"),
            (&["dist", "--backend", "7"], "dist-backend-7"),
            (&["dist", "--backend", "1-3"], "dist-backend-1-3"),
            (&["dist", "--backend", "7", "--out", "x/dist"], "x/dist"),
        ] {
            let line = <Line as clap::Parser>::try_parse_from(words).expect("a command line");
            let folder = line.arguments.folder();
            assert!(folder.ends_with(end), "{}", folder.display());
        }
    }

    #[test]
    fn the_configuration_names_the_back_end_that_the_policy_is_built_for() {
        // For a range, the operator adds the domain.
        for (backend, vif) in [
            (None, "bridge=xenbr0"),
            (Some("7"), "bridge=xenbr0,backend=7"),
            (Some("0"), "bridge=xenbr0,backend=0"),
            (Some("1-3"), "bridge=xenbr0"),
        ] {
            let words = ["dist"].into_iter().chain(backend.into_iter().flat_map(|ids| ["--backend", ids]));
            let line = <Line as clap::Parser>::try_parse_from(words).expect("a command line");
            let text = config(line.arguments.policy.domain());
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with("vif")).collect();
            assert_eq!(lines, [format!("vif = [ \"{vif}\" ]")], "{text}");
        }
    }

    #[test]
    fn checksums_cover_each_file() {
        let folder = tempfile::tempdir().expect("folder");
        write(folder.path(), &[("a", b"abc".to_vec()), ("b", Vec::new())]).expect("write");
        let sums = std::fs::read_to_string(folder.path().join("SHA256SUMS")).expect("sums");
        // The example of FIPS 180-4.
        assert!(sums.starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n"), "{sums}");
        assert_eq!(sums.lines().count(), 2);
    }

    #[test]
    fn the_note_has_no_placeholder_left() {
        let image = Image::empty();
        let note = install(&image);
        assert!(note.contains(&"00".repeat(32)) && note.contains(INSTALL_FOLDER) && !note.contains('@'), "{note}");
    }
}
