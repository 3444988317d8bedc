//! Says in English what an assertion claims: a sentence that the tool makes of the claim, whatever
//! the author says about it.

use crate::authority::Hypercall;
use crate::diagnostic::Spanned;
use crate::model::{Assertion, Claim, Exclusive, Measure};

impl Assertion {
    /// Returns what the assertion states: see [`sentence`].
    pub(crate) fn sentence(&self) -> String {
        sentence(&self.claim, self.allow_vacuous)
    }
}

/// Returns what a claim states, as a sentence, and whether it may be about nothing.
pub(crate) fn sentence(claim: &Claim, allow_vacuous: bool) -> String {
    let vacuous = if allow_vacuous { " It may be about something that the policy does not have." } else { "" };
    stated(claim) + vacuous
}

fn stated(claim: &Claim) -> String {
    match claim {
        Claim::CannotCause { from, to, takeovers, unless } => {
            let (without, even_if) = (without(unless), even_if("it", *takeovers));
            let deed = deed(&to.value);
            format!("{without}{} cannot {deed}, itself or through others{even_if}.", from.value)
        }
        Claim::NoLeak { regions, to, takeovers, unless } => {
            let regions = or(&values(regions));
            // Those that carry the bytes are taken over, not the one that gets them.
            let even_if = match takeovers {
                0 => "; taking over services is not considered".to_owned(),
                1 => ", even if 1 service is taken over".to_owned(),
                count => format!(", even if up to {count} services are taken over"),
            };
            let says = format!("no bytes of {regions} can get to {} by memory, paths or messages{even_if}.", to.value);
            if unless.is_empty() { says.replacen("no ", "No ", 1) } else { without(unless) + &says }
        }
        Claim::Exclusive { owner, regions, access, besides } => {
            let verb = if access.value == Exclusive::Map { "maps" } else { "writes" };
            let who: Vec<&str> = std::iter::once(owner.value.as_str()).chain(values(besides)).collect();
            format!("Nobody but {} {verb} {}, inside or outside the image.", and(&who), or(&values(regions)))
        }
        Claim::AtMost { what, service, limit } => {
            let of = service.as_ref().map_or("the image", |service| &service.value);
            at_most(what.value, of, *limit)
        }
        Claim::Only { who, may, takeovers, directly, unless } => {
            let (who, deed) = (and(&values(who)), deed(&may.value));
            let how = match (directly, takeovers) {
                (true, _) => " themselves; who can through others is not considered".to_owned(),
                (false, 0) => ", themselves or through others; taking over services is not considered".to_owned(),
                (false, count) => format!(", themselves or through others{}", even_if("another", *count)),
            };
            let says = format!("of all subjects, inside and outside the image, only {who} can {deed}{how}.");
            if unless.is_empty() { says.replacen("of ", "Of ", 1) } else { without(unless) + &says }
        }
        Claim::ShareNothing { between } => format!(
            "No two of {} have a region, a queue, a pin, a server, a client, a peer or a path in common.",
            and(&values(between))
        ),
    }
}

/// Returns the start of a sentence that says whose help is not considered, or nothing.
fn without(unless: &[Spanned<String>]) -> String {
    if unless.is_empty() { String::new() } else { format!("Without the help of {}, ", or(&values(unless))) }
}

/// Returns the part of a sentence that says how many services may be taken over.
fn even_if(who: &str, takeovers: u32) -> String {
    match takeovers {
        0 => "; taking over services is not considered".to_owned(),
        1 => format!(", even if {who} takes over 1 service"),
        count => format!(", even if {who} takes over up to {count} services"),
    }
}

fn at_most(what: Measure, of: &str, limit: u32) -> String {
    let counted = |noun: &str| if limit == 1 { format!("{limit} {noun}") } else { format!("{limit} {noun}s") };
    let (grants, pages) = (counted("grant rule"), counted("page"));
    match what {
        Measure::Grants => format!("The policy has at most {grants} for {of}."),
        Measure::GrantedPages => format!("Other domains may use at most {pages} of {of}."),
        Measure::WritablePages => format!("Other domains may write at most {pages} of {of}."),
        Measure::Pages => {
            format!("The boot promises {of} at most {pages}: fixed regions, minima of shares, stacks, and queues.")
        }
        Measure::CpuPercent => format!("The budgets of {of} are at most {limit} % of one processor."),
        Measure::Ports => format!("There are at most {} for {of}.", counted("event channel")),
        Measure::Restarts => format!("The kernel restarts {of} at most {} after a fault.", counted("time")),
    }
}

/// Returns an operation of a claim as the part of a sentence after "can".
///
/// The text is that of the policy. A text of unknown form is quoted as it is.
pub(crate) fn deed(text: &str) -> String {
    if Hypercall::ALL.iter().any(|hypercall| hypercall.name() == text) {
        return format!("cause the hypercall {text}");
    }
    let Some((object, word)) = text.rsplit_once('.') else { return format!("do {text}") };
    let path = object.strip_prefix("path:").or(object.contains('/').then_some(object));
    if let Some(path) = path {
        return format!("{word} the XenStore path {path}");
    }
    let any = |noun: &str| if object == noun { format!("any {noun}") } else { object.to_owned() };
    match word {
        "issue" => format!("have memory granted under {}", any("grant")),
        "end" => format!("have grants under {} ended", any("grant")),
        "open" => format!("open {}", channel(object)),
        "close" => format!("close {}", channel(object)),
        "send" => format!("send events over {}", channel(object)),
        "receive" => format!("be woken over {}", channel(object)),
        "request" => format!("send requests over {}", any("queue")),
        "reply" => format!("answer over {}", any("queue")),
        "pin" => format!("choose which domain of {} is the peer", any("domain")),
        "off" => "power the domain off".into(),
        "reboot" => "reboot the domain".into(),
        "stop" => "stop the image by a fault".into(),
        "now" => "read the monotonic clock".into(),
        "wall" => "read the wall clock".into(),
        "draw" => "draw random bits of the kernel's generator".into(),
        "write" if object == "console" => "write to the console".into(),
        "read" if object == "info" => "read facts about the image".into(),
        "read" | "write" => format!("{word} {}", any("region")),
        "execute" => format!("execute the program {}", object.trim_start_matches("program:")),
        _ => format!("do {text}"),
    }
}

fn channel(object: &str) -> String {
    if object == "port" { "any event channel".into() } else { format!("the event channel {object}") }
}

fn values(words: &[Spanned<String>]) -> Vec<&str> {
    words.iter().map(|word| word.value.as_str()).collect()
}

/// Returns a list as in a sentence: `a, b and c`.
pub(crate) fn and(words: &[&str]) -> String {
    joined(words, "and")
}

/// Returns a list as in a sentence: `a, b or c`.
pub(crate) fn or(words: &[&str]) -> String {
    joined(words, "or")
}

fn joined(words: &[&str], conjunction: &str) -> String {
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} {conjunction} {last}", others.join(", ")),
    }
}
