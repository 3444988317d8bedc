//! Renders a difference as text for people.

use std::fmt;

use super::assertions::Asserted;
use super::{Assertions, Class, Difference};

/// Returns a class as the part of a sentence after the word for it.
fn meaning(class: Class) -> &'static str {
    match class {
        Class::Equivalent => "the new policy allows the same",
        Class::Widening => "the new policy allows more, and nothing less",
        Class::Narrowing => "the new policy allows less, and nothing more",
        Class::Incomparable => "the new policy allows more of one thing and less of another",
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.class.word(), meaning(self.class))?;
        for (kind, old, new) in &self.renamed {
            writeln!(f, "  the {kind} {old} is now called {new}, which changes nothing")?;
        }
        for (subject, class) in &self.subjects {
            let says = match class {
                Class::Equivalent => "the same",
                Class::Widening => "more",
                Class::Narrowing => "less",
                Class::Incomparable => "more of one thing and less of another",
            };
            writeln!(f, "  {subject} can do {says}")?;
        }
        for change in &self.changes {
            let word = if change.class == Class::Widening { "more" } else { "less" };
            writeln!(f, "\n{word}: {}", change.sentence)?;
            for step in &change.path {
                writeln!(f, "    line {:>4}  {}: {}", step.line, step.rule, step.says)?;
            }
            writeln!(f, "    old: {}", change.witness.old)?;
            writeln!(f, "    new: {}", change.witness.new)?;
        }
        for pin in &self.pins {
            let word = match pin.class {
                Class::Widening => "more",
                Class::Narrowing => "less",
                _ => "incomparable",
            };
            writeln!(f, "\n{word}: {}", pin.sentence())?;
        }
        self.assertions.fmt(f)
    }
}

impl Assertions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for broken in &self.broken {
            writeln!(f, "\nthe new policy fails its own assertion {}: {}", broken.name, broken.sentence)?;
            writeln!(f, "    found: {}", broken.finding)?;
        }
        let one = |f: &mut fmt::Formatter<'_>, what: &str, found: &Asserted| {
            writeln!(f, "\nassertion {what}: {}: {}\n    {}", found.name, found.sentence, found.claim)
        };
        for (what, pairs) in [("weaker", &self.weaker), ("stronger", &self.stronger)] {
            for pair in pairs {
                writeln!(f, "\nassertion {what}: {}", pair.new.name)?;
                writeln!(f, "    old: {}\n    new: {}", pair.old.sentence, pair.new.sentence)?;
            }
        }
        let weakened = |found: &&Asserted| self.weaker.iter().any(|pair| pair.old.name == found.name);
        self.dropped.iter().filter(|found| !weakened(found)).try_for_each(|found| one(f, "dropped", found))?;
        self.added.iter().try_for_each(|found| one(f, "added", found))?;
        for reworded in &self.reworded {
            writeln!(f, "\nassertion {}: the author explains it in other words", reworded.name)?;
            writeln!(f, "    old: \"{}\"\n    new: \"{}\"", reworded.old, reworded.new)?;
        }
        Ok(())
    }
}
