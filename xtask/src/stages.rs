//! Shows the progress of a command: its stages, with the time that each took.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The stages of a command.
///
/// A terminal shows the current stage; each finished stage gets a line. Everything goes to standard
/// error: standard output belongs to the guest, or to the command of `--exec`.
pub struct Stages {
    current: Option<(String, Instant)>,
    bar: ProgressBar,
    terminal: bool,
    /// The beginning of each line.
    label: String,
}

impl Stages {
    /// Starts without a stage.
    pub fn new() -> Self {
        Self::shown(console::user_attended_stderr(), String::new())
    }

    /// Starts without a stage, for work that runs beside other work: prints lines only, each with a
    /// name.
    pub fn beside(name: &str) -> Self {
        Self::shown(false, format!("{name}: "))
    }

    fn shown(terminal: bool, label: String) -> Self {
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        Self { current: None, bar, terminal, label }
    }

    /// Ends the current stage and begins another.
    pub fn begin(&mut self, name: &str) {
        self.done();
        if self.terminal {
            self.bar.reset();
            self.bar.set_message(name.to_owned());
            self.bar.enable_steady_tick(Duration::from_millis(100));
        }
        self.current = Some((name.to_owned(), Instant::now()));
    }

    /// Ends the current stage, if there is one.
    pub fn done(&mut self) {
        let Some((name, since)) = self.current.take() else { return };
        self.bar.disable_steady_tick();
        self.bar.set_message("");
        self.say(&line(&format!("{}{name}", self.label), since.elapsed()));
    }

    /// Prints a line without disturbing the stage that a terminal shows.
    pub fn say(&self, text: &str) {
        match self.terminal {
            true => self.bar.suspend(|| eprintln!("{text}")),
            false => eprintln!("{text}"),
        }
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        // A stage that ends here has failed; its error follows.
        self.bar.finish_and_clear();
    }
}

fn line(name: &str, time: Duration) -> String {
    format!("{:>7.2} s  {name}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_and_name() {
        assert_eq!(line("starting Xen", Duration::from_millis(1234)), "   1.23 s  starting Xen");
    }
}
