use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use cloister_policy::verify::{Against, MAX_IMAGE, verify};
use cloister_policy::{About, ImageHashes, ShowFormat, date_of};
use sha2::{Digest, Sha256};

use super::outcome::{Outcome, Output, PolicyFile, Status, json};
use crate::file;

/// The largest manifest of a release, in bytes.
const MAX_RELEASE: u64 = 1 << 20;

/// Print the page to sign: everything that a policy allows, and the verdicts on its assertions
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
    /// An image of the policy, whose hashes are put on the page; it must verify
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,
    /// The manifest of a release, whose hash is put on the page; it is not checked
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// The date on the page, in UTC; by default that of SOURCE_DATE_EPOCH, or else today's
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    date: Option<String>,
    #[command(flatten)]
    output: Output<Format>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal
    #[default]
    Text,
    /// For programs
    Json,
    /// For a review
    Markdown,
    /// One file that needs no other, with the graph
    Html,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let about = match self.about() {
            Ok(about) => about,
            Err(outcome) => return outcome,
        };
        self.policy.with_sound(|policy| {
            let holds = policy.page(&about).holds();
            let output = match self.output.format() {
                Format::Text => policy.show(ShowFormat::Text, &about),
                Format::Markdown => policy.show(ShowFormat::Markdown, &about),
                Format::Html => policy.show(ShowFormat::Html, &about),
                Format::Json => json("show", &policy.page(&about)),
            };
            Outcome { status: if holds { Status::Holds } else { Status::Refused }, ..Outcome::holds(output) }
        })
    }

    /// Collects what the page says besides the policy.
    fn about(&self) -> Result<About, Outcome> {
        let image = self.image.as_ref().map(|image| self.image_hashes(image)).transpose()?;
        let release = self.release.as_ref().map(|path| file::read(path, MAX_RELEASE));
        let release = release.transpose().map_err(Outcome::unusable)?;
        let date = match &self.date {
            Some(date) => date.clone(),
            None => today().map_err(Outcome::unusable)?,
        };
        Ok(About { date: Some(date), image, release: release.map(|bytes| Sha256::digest(bytes).into()) })
    }

    /// Returns the hashes of an image, if it verifies and carries the policy.
    fn image_hashes(&self, path: &Path) -> Result<ImageHashes, Outcome> {
        let image = file::read(path, MAX_IMAGE).map_err(Outcome::unusable)?;
        let policy = file::read_policy(&self.policy.file).map_err(Outcome::unusable)?;
        let against = Against { policy: Some(&policy), ..Against::default() };
        let verdict =
            verify(&image, &against).map_err(|error| Outcome::unusable(format_args!("{}: {error}", path.display())))?;
        if verdict.holds() {
            return Ok(ImageHashes { file: verdict.image_hash, tables: verdict.tables_hash });
        }
        let problem = format!(
            "{}error: an image that does not verify, or not with this policy, is not put on the page\n",
            verdict.text()
        );
        Err(Outcome { problems: problem, status: Status::Refused, ..Outcome::holds("") })
    }
}

/// Returns the date of `SOURCE_DATE_EPOCH`, or else today's.
fn today() -> Result<String, String> {
    let name = "SOURCE_DATE_EPOCH";
    let seconds = match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name} is no number of seconds: `{text}`"))?,
        Err(std::env::VarError::NotPresent) => {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
        }
        Err(std::env::VarError::NotUnicode(_)) => return Err(format!("{name} is no number of seconds")),
    };
    Ok(date_of(seconds))
}

/// Reads a date: four digits, two and two.
fn date(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('-').collect();
    let digits = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| part.parse::<u32>().unwrap_or(0);
    match *parts.as_slice() {
        [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2) => {
            let valid = (1..=12).contains(&number(month)) && (1..=31).contains(&number(day));
            if valid { Ok(text.to_owned()) } else { Err("there is no such month or day".into()) }
        }
        _ => Err("write a date such as 2024-02-29".into()),
    }
}
