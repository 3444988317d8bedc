//! The policy that holds, which can become an image.

use std::path::Path;

use cloister_caps::tables::Tables;

use crate::bindings;
use crate::check;
use crate::diagnostic::{Diagnostic, Log, Report};
use crate::emit;
use crate::plan::{self, Plan};
use crate::read;
use crate::read::text::{Size, text_within};
use crate::sound::{Sound, sound};

/// A policy that holds, and can become an image.
///
/// # Holding one proves
/// The policy is sound, its assertions are proved, and an image has room for it.
pub struct Checked {
    sound: Sound,
    pub(crate) plan: Plan,
}

impl std::ops::Deref for Checked {
    type Target = Sound;

    fn deref(&self) -> &Sound {
        &self.sound
    }
}

impl Checked {
    /// Returns the capability tables without programs, for a kernel that runs on the host.
    ///
    /// They are those of the image, but without segments, and with all image data at the start of
    /// the image. `None` if they would be too large, which [`parse`] excludes.
    #[must_use]
    pub fn tables(&self) -> Option<Vec<u8>> {
        emit::emit(&self.plan, &emit::Placement::without_programs(&self.plan), self.hash, &self.canonical)
    }

    /// Returns name and bytes of the regions that the compiler fills, such as the rules that a
    /// service enforces.
    pub fn data(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.plan.data.iter().filter_map(|(index, bytes)| {
            let region = self.plan.regions.get(*index)?;
            Some((region.name.as_str(), bytes.as_slice()))
        })
    }

    /// Returns the Rust source that gives the program of `service` its capabilities, or `None` if
    /// there is no such service.
    #[must_use]
    pub fn bindings(&self, service: &str) -> Option<String> {
        bindings::bindings(&self.policy, &self.plan, self.policy.services.index(service)?)
    }
}

/// Reads and checks the policy file at `path`.
///
/// # Errors
/// The file cannot be read, or the policy does not hold; the report says where and why.
pub fn load(path: &Path) -> Result<Checked, Report> {
    parse(&path.display().to_string(), &text_within(path, Size::Image)?)
}

/// Reads and checks the policy `text`; `name` stands for the file in the report.
///
/// # Errors
/// The policy does not hold; the report says where and why.
pub fn parse(name: &str, text: &str) -> Result<Checked, Report> {
    let mut log = Log::default();
    let policy = read::read(name, text, Size::Image, &mut log)?;
    check::check(&policy, &mut log);
    check::limits(&policy, &mut log);
    if !log.is_empty() {
        return Err(Report::refused(name, text, log));
    }
    let sound = sound(name, text, policy)?;
    sound.proved()?;
    let refused = |problem: String| {
        let mut log = Log::default();
        log.push(Diagnostic::of_file(problem));
        Report::refused(name, text, log)
    };
    let plan = plan::plan(&sound.policy, &sound.lines)
        .ok_or_else(|| refused("the policy does not fit the capability tables".into()))?;
    // The kernel's own check, on the tables without programs.
    let tables = emit::emit(&plan, &emit::Placement::without_programs(&plan), sound.hash, &sound.canonical)
        .ok_or_else(|| refused("the policy does not fit the capability tables".into()))?;
    Tables::parse(&tables).map_err(|error| refused(format!("the kernel would refuse the policy: {error}")))?;
    Ok(Checked { sound, plan })
}
