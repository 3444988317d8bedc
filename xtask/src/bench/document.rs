//! Writes the last run to `docs/benchmarks.md`, or to `docs/benchmarks-wall.md` or `-host.md` for a
//! run in that regime alone.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::machine::MEMORY;
use super::record::Run;
use super::{plot, table};

/// The document of runs by the instruction clock.
pub const MAIN: &str = "benchmarks";
/// The beginning of the main document. Its first line is a comment for readers of the file, which
/// is not copied.
const INTRODUCTION: &str = include_str!("introduction.md");

/// Writes the document `name`, and its plots to a folder beside it.
pub fn write(run: &Run, docs: &Path, name: &str) -> Result<PathBuf> {
    let path = docs.join(format!("{name}.md"));
    let folder = docs.join(name);
    // Plots of an older run that this run does not make would look like its own.
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let plots = plot::draw(run, &folder)?;
    std::fs::write(&path, text(run, &plots, name)).with_context(|| path.display().to_string())?;
    run.write(&folder.join("results.json"))?;
    Ok(path)
}

fn text(run: &Run, plots: &[(String, PathBuf)], name: &str) -> String {
    let mut text = if name == MAIN {
        let copied = INTRODUCTION.split_once("-->\n\n").map_or(INTRODUCTION, |(_, rest)| rest);
        copied.replace("@MEMORY@", &MEMORY.to_string())
    } else {
        format!("# Benchmarks: one regime\n\n[`{MAIN}.md`]({MAIN}.md) says what is compared, and how.\n")
    };
    let minutes = run.seconds.div_ceil(60);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n## The last run\n\n    {}\n\nIt took {minutes} min and made {} readings. Image: commit `{}`, policy `{}`. Raw numbers: \
         [`{name}/results.json`]({name}/results.json). Made with:\n\n",
        run.command,
        run.readings.len(),
        run.commit,
        run.policy
    );
    for version in run.versions.lines() {
        let _ = writeln!(text, "- {version}");
    }
    text += &table::markdown(run);
    if !plots.is_empty() {
        text += "\n## Growth\n\nA cross on the axis is a load at which a system failed; the errors above say how.\n";
    }
    for (title, file) in plots {
        let plot = file.file_name().unwrap_or_default().to_string_lossy();
        let _ = write!(text, "\n![{title}]({name}/{plot})\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_command_commit_and_plots() {
        let run = Run { command: "cargo xtask bench".to_owned(), commit: "abc+".to_owned(), ..Run::default() };
        let text = text(&run, &[("Requests".to_owned(), "/x/requests-icount.svg".into())], MAIN);
        for part in ["    cargo xtask bench\n", "`abc+`", "![Requests](benchmarks/requests-icount.svg)", "384 MiB"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.starts_with("# Benchmarks\n") && !text.contains("@MEMORY@"), "{text}");
    }
}
