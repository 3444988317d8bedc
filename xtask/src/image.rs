//! Builds the bootable image of a policy.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use cargo_metadata::Metadata;
use cloister_policy::release::{Release, Sources, hash_of};
use cloister_policy::verify::hashes;
use cloister_policy::{Checked, Extras, Program};

use crate::inventory;
use crate::stages::Stages;
use crate::workspace::{self, TARGET};

/// The kernel's package and its binary.
const KERNEL: &str = "cloister-kernel";
/// The program of the policy that ships in whose place [`Extra::Sink`] puts another, and that
/// other.
const SINK: (&str, &str) = ("cloister-http", "cloister-http-with-sink");
/// The policy that ships.
pub const DEFAULT_POLICY: &str = "policy/default.toml";

/// An addition for measurements. The image that ships has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extra {
    /// http receives uploads of any length.
    Sink,
    /// The kernel takes samples of what runs.
    Profile,
}

impl Extra {
    /// Returns the suffix that it adds to the name of the image's folder.
    fn suffix(self) -> &'static str {
        match self {
            Extra::Sink => "-sink",
            Extra::Profile => "-profile",
        }
    }
}

/// Returns the program that is built where a policy names `program`.
fn replaced<'a>(program: &'a str, extra: &[Extra]) -> &'a str {
    let (without, with) = SINK;
    if program == without && extra.contains(&Extra::Sink) { with } else { program }
}

/// A built image.
pub struct Image {
    /// The bootable ELF file.
    pub elf: PathBuf,
    /// Its folder, with the programs' own ELF files (`<service>.elf`, `kernel.elf`) for their
    /// symbols.
    pub folder: PathBuf,
    /// The policy file that it was built from.
    pub policy: PathBuf,
    /// The manifest, without a guest's configuration.
    pub release: Release,
    /// The names of its services.
    pub services: Vec<String>,
}

#[cfg(test)]
impl Image {
    /// Returns an image without files.
    pub fn empty() -> Self {
        let hashes = cloister_policy::verify::Hashes {
            image: [0; 32],
            policy: [0; 32],
            tables: [0; 32],
            sbom: None,
            unsafe_uses: None,
            programs: Vec::new(),
        };
        let sources = Sources { policy_file: [0; 32], lock: [0; 32], toolchain: String::new(), commit: None };
        Image {
            elf: PathBuf::new(),
            folder: PathBuf::new(),
            policy: PathBuf::new(),
            release: Release { hashes, sources, configuration: None },
            services: Vec::new(),
        }
    }
}

/// Builds the image of a policy.
pub fn build(policy_file: &Path, stages: &mut Stages) -> Result<Image> {
    build_with(policy_file, &[], stages)
}

/// Builds the image of a policy with additions, in a separate folder.
pub fn build_with(policy_file: &Path, extra: &[Extra], stages: &mut Stages) -> Result<Image> {
    stages.begin("checking the policy");
    let policy_file = find(policy_file)?;
    let policy = cloister_policy::load(&policy_file)
        .map_err(|report| anyhow!("the policy does not hold\n{}", report.render(console::colors_enabled_stderr())))?;
    workspace::ensure_target(&mut |text| stages.begin(text))?;
    let metadata = workspace::metadata()?;
    let mut folder = folder(&policy_file)?;
    extra.iter().for_each(|extra| folder.as_mut_os_string().push(extra.suffix()));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let cargo = Cargo { folder: &folder, extra };
    stages.begin("building the kernel");
    let mut features = features(&policy, &metadata)?;
    if extra.contains(&Extra::Profile) {
        features.insert("profile".to_owned());
    }
    let kernel = cargo.kernel(&features)?;
    let mut programs = Vec::new();
    for service in policy.services() {
        stages.begin(&format!("building {}", service.name()));
        programs.push((service.name().to_owned(), cargo.service(&policy, &service, &metadata)?));
    }
    stages.begin("listing what the image is made of");
    let inventory = inventory::take(&policy, &packages(&policy, extra, &metadata)?)?;
    stages.begin("packing the image");
    let list: Vec<Program<'_>> = programs.iter().map(|(name, elf)| Program { service: name, elf }).collect();
    let extras = Extras { sbom: Some(&inventory.sbom), unsafe_uses: Some(&inventory.unsafe_uses) };
    let packed = cloister_policy::pack_with(&policy, &kernel, &list, &extras).context("the image cannot be packed")?;
    let elf = folder.join("cloister.elf");
    write_if_changed(&elf, &packed)?;
    let written = std::fs::read(&policy_file).with_context(|| policy_file.display().to_string())?;
    let hashes = hashes(&packed).context("the packed image cannot be read")?;
    let release = Release { hashes, sources: sources(&written)?, configuration: None };
    // With the policy as it was written, the folder has all that a build of the same again needs.
    write_if_changed(&folder.join("policy.toml"), &written)?;
    write_if_changed(&folder.join("release.toml"), release.text().as_bytes())?;
    let services = programs.into_iter().map(|(name, _)| name).collect();
    Ok(Image { elf, folder, policy: policy_file, release, services })
}

/// Returns what the image of a policy file is built from.
fn sources(policy_file: &[u8]) -> Result<Sources> {
    let lock = workspace::root().join("Cargo.lock");
    let lock = std::fs::read(&lock).with_context(|| lock.display().to_string())?;
    Ok(Sources {
        policy_file: hash_of(policy_file),
        lock: hash_of(&lock),
        toolchain: workspace::toolchain()?,
        commit: workspace::commit(),
    })
}

/// Returns the packages of the kernel and of the programs.
fn packages(policy: &Checked, extra: &[Extra], metadata: &Metadata) -> Result<BTreeSet<String>> {
    let programs = policy.services().map(|service| replaced(service.program(), extra).to_owned());
    let programs = programs.map(|program| Ok(workspace::program(metadata, &program)?.0));
    programs.chain([Ok(KERNEL.to_owned())]).collect()
}

/// Returns the kernel's features: `image`, and those that programs need, which only a back end
/// does.
fn features(policy: &Checked, metadata: &Metadata) -> Result<BTreeSet<String>> {
    let mut features = BTreeSet::from(["image".to_owned()]);
    for service in policy.services() {
        features.extend(workspace::kernel_features(metadata, service.program())?);
    }
    Ok(features)
}

/// Returns the folder of a policy's image: `target/image/<name of the policy file>`.
pub fn folder(policy_file: &Path) -> Result<PathBuf> {
    let name = policy_file.file_stem().with_context(|| format!("{} names no file", policy_file.display()))?;
    Ok(cloister_bed::target_dir().join("image").join(name))
}

/// Finds a policy file, in the current folder or the workspace: commands also work from another
/// folder.
pub fn find(file: &Path) -> Result<PathBuf> {
    let in_workspace = workspace::root().join(file);
    match (file.is_file(), in_workspace.is_file()) {
        (true, _) => Ok(file.to_owned()),
        (false, true) => Ok(in_workspace),
        _ => bail!("there is no policy file {}", file.display()),
    }
}

/// Runs cargo for the programs of one image.
///
/// Each policy has a separate target folder, because link addresses and capabilities differ:
/// building one policy never undoes the work of another.
struct Cargo<'a> {
    folder: &'a Path,
    extra: &'a [Extra],
}

impl Cargo<'_> {
    fn kernel(&self, features: &BTreeSet<String>) -> Result<Vec<u8>> {
        let script = workspace::root().join("kernel/image/link.ld");
        let features = features.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let elf = self.rustc((KERNEL, KERNEL), &features, &script, None, None)?;
        self.keep("kernel", &elf)
    }

    fn service(
        &self,
        policy: &Checked,
        service: &cloister_policy::Service<'_>,
        metadata: &Metadata,
    ) -> Result<Vec<u8>> {
        let name = service.name();
        let (package, bin) = workspace::program(metadata, replaced(service.program(), self.extra))?;
        let source = policy.bindings(name).with_context(|| format!("the policy has no bindings for {name}"))?;
        let bindings = self.folder.join(format!("{name}.rs"));
        write_if_changed(&bindings, source.as_bytes())?;
        let script = workspace::root().join("services/runtime/link.ld");
        let elf = self.rustc((&package, &bin), "image", &script, Some(service.image_base()), Some(&bindings))?;
        self.keep(name, &elf)
    }

    fn rustc(
        &self,
        (package, bin): (&str, &str),
        features: &str,
        script: &Path,
        base: Option<u64>,
        bindings: Option<&Path>,
    ) -> Result<PathBuf> {
        let target_dir = self.folder.join("cargo");
        let mut command = workspace::cargo();
        remove_flags(&mut command);
        command.args(["rustc", "--quiet", "--locked", "--package", package, "--bin", bin, "--features", features]);
        command.args(["--target", TARGET, "--profile", "image", "--target-dir"]).arg(&target_dir);
        command.arg("--config").arg(format!("target.{TARGET}.rustflags={:?}", workspace::source_flags()?));
        command.args(["--", "-C", "relocation-model=static", "-C", &format!("link-arg=-T{}", script.display())]);
        if let Some(base) = base {
            command.args(["-C", &format!("link-arg=--defsym=IMAGE_BASE={base:#x}")]);
        }
        if let Some(bindings) = bindings {
            command.env("CLOISTER_CAPABILITIES", bindings);
        }
        let output = command.output().context("cargo cannot be run")?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{package} does not build\n{text}");
        }
        if !text.trim().is_empty() {
            eprint!("{text}");
        }
        Ok(target_dir.join(TARGET).join("image").join(bin))
    }

    /// Copies a program's ELF file, with its symbols, beside the image, and returns its bytes.
    fn keep(&self, name: &str, elf: &Path) -> Result<Vec<u8>> {
        let content = std::fs::read(elf).with_context(|| elf.display().to_string())?;
        write_if_changed(&self.folder.join(format!("{name}.elf")), &content)?;
        Ok(content)
    }
}

/// Takes out of a command's environment what would change the code that it compiles.
///
/// Flags of the environment replace those of the command, among them the ones without which the
/// image depends on the folder of the sources.
fn remove_flags(command: &mut std::process::Command) {
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_INCREMENTAL"] {
        command.env_remove(name);
    }
    let profiles = std::env::vars_os().map(|(name, _)| name);
    for name in profiles.filter(|name| name.to_string_lossy().starts_with("CARGO_PROFILE_")) {
        command.env_remove(name);
    }
}

/// Writes a file only if its content changes, so that nothing that depends on it is built again.
fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    std::fs::write(path, content).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_has_its_own_folder() {
        let folder = folder(Path::new("tests/guests/prober.toml")).expect("folder");
        assert!(folder.ends_with("image/prober"));
    }

    #[test]
    fn only_a_back_end_has_a_kernel_that_maps_foreign_memory() {
        let metadata = workspace::metadata().expect("metadata");
        for (name, expected) in [
            (DEFAULT_POLICY, &["image"][..]),
            ("tests/guests/prober.toml", &["image"]),
            ("tests/guests/selftest.toml", &["image"]),
            ("tests/guests/back-end.toml", &["back-end", "image"]),
        ] {
            let file = workspace::root().join(name);
            let policy = cloister_policy::load(&file).unwrap_or_else(|report| panic!("{}", report.render(false)));
            let found = features(&policy, &metadata).expect("features");
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{name}");
        }
    }

    #[test]
    fn only_the_benchmarks_image_has_a_sink() {
        let metadata = workspace::metadata().expect("metadata");
        let file = workspace::root().join(DEFAULT_POLICY);
        let policy = cloister_policy::load(&file).unwrap_or_else(|report| panic!("{}", report.render(false)));
        let (without, with) = SINK;
        for (extra, sink) in [(&[][..], false), (&[Extra::Profile], false), (&[Extra::Profile, Extra::Sink], true)] {
            let packages = packages(&policy, extra, &metadata).expect("packages");
            assert_eq!((packages.contains(without), packages.contains(with)), (!sink, sink), "{extra:?}");
        }
    }

    #[test]
    fn a_program_that_ships_has_no_feature_but_image() {
        let metadata = workspace::metadata().expect("metadata");
        let file = workspace::root().join(DEFAULT_POLICY);
        let policy = cloister_policy::load(&file).unwrap_or_else(|report| panic!("{}", report.render(false)));
        for service in policy.services() {
            let (package, _) = workspace::program(&metadata, service.program()).expect("a package");
            let known = metadata.packages.iter().find(|known| *known.name == package).expect("a package");
            let features: Vec<&String> = known.features.keys().filter(|name| !name.starts_with("dep:")).collect();
            assert_eq!(features, ["image"], "{package}");
        }
    }

    #[test]
    fn a_missing_policy_is_named() {
        assert!(find(Path::new("policy/none.toml")).expect_err("absent").to_string().contains("policy/none.toml"));
    }

    #[test]
    fn an_unchanged_file_keeps_its_time() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x");
        write_if_changed(&path, b"1").expect("write");
        let before = std::fs::metadata(&path).expect("there").modified().expect("time");
        write_if_changed(&path, b"1").expect("write");
        assert_eq!(std::fs::metadata(&path).expect("there").modified().expect("time"), before);
        write_if_changed(&path, b"2").expect("write");
        assert_eq!(std::fs::read(&path).expect("there"), b"2");
    }
}
