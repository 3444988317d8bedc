//! Says in English what an assertion claims: a sentence that the tool makes of the claim, whatever
//! the author says about it.

use crate::authority::Hypercall;
use crate::diagnostic::Spanned;
use crate::model::{Claim, Exclusive, Measure};

/// Returns what a claim states, as a sentence.
pub(crate) fn sentence(claim: &Claim) -> String {
    match claim {
        Claim::NoFlow { from, to, takeovers } => {
            let deed = deed(&to.value);
            let by = match takeovers {
                0 => "by its own rights or by requests; taking over services is not considered".to_owned(),
                1 => "even if it takes over 1 service".to_owned(),
                count => format!("even if it takes over up to {count} services"),
            };
            format!("{} cannot {deed}, {by}.", from.value)
        }
        Claim::Exclusive { owner, regions, access } => {
            let verb = if access.value == Exclusive::Map { "maps" } else { "writes" };
            let (owner, regions) = (&owner.value, values(regions));
            format!("No service but {owner} {verb} {}.", or(&regions))
        }
        Claim::AtMost { what, service, limit } => {
            let of = service.as_ref().map_or("the image", |service| &service.value);
            at_most(what.value, of, *limit)
        }
        Claim::Only { who, may } => {
            format!(
                "Of all subjects, inside and outside the image, only {} can {}.",
                and(&values(who)),
                deed(&may.value)
            )
        }
        Claim::ShareNothing { between } => format!(
            "No two of {} map a common region or have a queue between them, and none pins the peer of another.",
            and(&values(between))
        ),
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
            format!("The boot promises {of} at most {pages}: fixed regions, minima of shares, and stacks.")
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
