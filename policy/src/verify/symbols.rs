//! Checks that the symbols of a program use only capabilities that its service holds.
//!
//! The symbols come from the program's own ELF file beside the image, which carries none. Inlined
//! code has no symbol, so the check finds code that should not be there, but does not prove its
//! absence.

use cloister_caps::tables::Tables;
use cloister_caps::{Kind, ServiceId};
use object::{LittleEndian, Object, ObjectSegment, ObjectSymbol};

use super::image::Image;
use super::verdict::Finding;
use crate::image_limits::{MAX_ERRORS, MAX_SYMBOL_NAMES};

/// Crates of ours that every program may contain.
const COMMON: [&str; 4] = ["caps", "collections", "interfaces", "runtime"];
/// Types of `cloister_interfaces::capability`, with the capability that their use needs. The
/// console is not among them, because every program contains the runtime's panic message, which
/// uses it.
const TYPES: [(&str, Kind); 7] = [
    ("Clock", Kind::Clock),
    ("Entropy", Kind::Entropy),
    ("Power", Kind::Power),
    ("Info", Kind::Info),
    ("Port", Kind::Port),
    ("Grant", Kind::Grant),
    ("DomainPin", Kind::Domain),
];

/// Checks the symbols of a service's program.
pub(super) fn check(image: &Image<'_>, tables: &Tables<'_>, service: &str, elf: &[u8], findings: &mut Vec<Finding>) {
    let mut error = |message: String| findings.push(Finding::error("symbols", format!("{service}: {message}")));
    let file = match object::read::elf::ElfFile64::<LittleEndian>::parse(elf) {
        Ok(file) => file,
        Err(reason) => return error(format!("its ELF file cannot be read: {reason}")),
    };
    let Some(id) = tables.services().ids().find(|id| tables.service_name(*id) == service) else { return };
    for segment in file.segments() {
        let segments = tables.segments();
        let mut places = segments.iter().filter(|place| place.service == id);
        let place = places.find(|place| place.address == segment.address());
        let own = place.and_then(|place| image.rest().iter().find(|load| load.physical == place.image_address));
        let empty = place.is_some_and(|place| place.file_size == 0 && place.memory_size == segment.size());
        let same = segment.data().is_ok_and(|bytes| match own {
            Some(load) => load.bytes.starts_with(bytes),
            None => bytes.is_empty() && empty,
        });
        if segment.size() > 0 && !same {
            return error(format!("its ELF file is not that of the image: they differ at {:#x}", segment.address()));
        }
    }
    let holder = Holder { tables, service: id, program: program(tables, id) };
    let (mut seen, mut refused, mut length) = (0, 0, 0_usize);
    for symbol in file.symbols() {
        // Names may overlap, or have no end, so each costs its length.
        let Ok(written) = symbol.name() else { return error("a symbol has no name that can be read".into()) };
        let name = format!("{:#}", rustc_demangle::demangle(written));
        length = length.saturating_add(written.len()).saturating_add(name.len());
        if length > MAX_SYMBOL_NAMES {
            return error(format!("the names of its symbols have more than {MAX_SYMBOL_NAMES} bytes"));
        }
        seen += usize::from(!name.is_empty());
        if let Some(reason) = holder.beyond(&name, service) {
            error(format!("the symbol `{}` needs more than the service holds: {reason}", name.escape_default()));
            refused += 1;
            if refused == MAX_ERRORS {
                return error("its other symbols were not checked".into());
            }
        }
    }
    if seen == 0 {
        error("its ELF file has no symbols".into());
    }
}

struct Holder<'a> {
    tables: &'a Tables<'a>,
    service: ServiceId,
    /// The crate of its program, as in symbols.
    program: Option<String>,
}

/// Returns the crate that the embedded policy names for a service's program, as in symbols.
fn program(tables: &Tables<'_>, service: ServiceId) -> Option<String> {
    let text = super::text::read(tables.policy_text()).ok()?;
    Some(text.services.into_values().nth(service.index())?.value.program.replace('-', "_"))
}

impl Holder<'_> {
    fn holds(&self, kind: Kind) -> bool {
        let own = self.tables.capabilities();
        own.iter().any(|capability| capability.service == self.service && capability.kind() == kind)
    }

    /// Returns why a symbol needs more than the service holds.
    fn beyond(&self, symbol: &str, service: &str) -> Option<String> {
        let own = service.replace('-', "_");
        for (at, prefix) in symbol.match_indices("cloister_") {
            let path = symbol.get(at + prefix.len()..).unwrap_or_default();
            let name =
                |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
            let krate = name(path);
            // `cloister_main`, or a closure in it, is a function of the runtime, not a crate.
            let rest = path.get(krate.len()..).unwrap_or_default();
            if !rest.starts_with("::") || krate == "main" && rest.starts_with("::{{closure}}") {
                continue;
            }
            if !COMMON.contains(&krate.as_str()) && krate != own && self.program != Some(format!("cloister_{krate}")) {
                return Some(format!("it is code of cloister_{krate}"));
            }
            if let Some(used) = path.strip_prefix("interfaces::capability::").map(name)
                && let Some((word, kind)) = TYPES.iter().find(|(word, kind)| *word == used && !self.holds(*kind))
            {
                return Some(format!("it is for a {word}, and the policy gives no {}", kind.name()));
            }
        }
        None
    }
}
