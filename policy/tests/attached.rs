//! `verify` on the programs' symbols, and on the inventories that the packer attaches.

mod common;

use cloister_policy::verify::{Against, verify};
use common::image::{image, kernel, pack_all, program};
use common::{Elf, headers, seal};

/// The symbols of a program.
mod of_symbols {
    use super::*;

    /// Returns the errors if the ELF file of `manager` has this symbol.
    fn with_symbol(symbol: &str) -> Vec<String> {
        let elf = Elf { symbol: Some((symbol.to_owned(), 0x0200_1000)), ..program(1) };
        findings(&elf.build())
    }

    fn findings(elf: &[u8]) -> Vec<String> {
        let symbols = [("manager".to_owned(), elf.to_vec())];
        let verdict = verify(&image(), &Against { symbols: &symbols, ..Against::default() }).unwrap();
        verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect()
    }

    #[track_caller]
    fn is_beyond(symbol: &str, expected: &str) {
        let errors = with_symbol(symbol);
        assert!(errors.len() == 1 && errors[0].contains(expected), "{expected}: {errors:?}");
    }

    #[test]
    fn code_of_its_own_is_allowed() {
        for symbol in [
            "_start",
            "memcpy",
            "cloister_main",
            "http::cloister_main::{{closure}}",
            "_ZN16cloister_manager3run17h0000000000000000E",
        ] {
            assert!(with_symbol(symbol).is_empty(), "{symbol}: {:?}", with_symbol(symbol));
        }
        assert!(with_symbol("cloister_interfaces::capability::Grant<S>::issue").is_empty());
        assert!(with_symbol("<cloister_interfaces::capability::Console as Write>::write_str").is_empty());
    }

    #[test]
    fn data_that_has_no_bytes_is_compared_by_its_length() {
        let own = || Elf { symbol: Some(("_start".to_owned(), 0x0200_1000)), ..program(1) };
        let mut empty = own();
        empty.parts[2].bytes.clear();
        let file = pack_all(&kernel(), &[program(0), empty.clone(), program(2)]);
        let errors = |elf: &Elf| {
            let symbols = [("manager".to_owned(), elf.build())];
            let verdict = verify(&file, &Against { symbols: &symbols, ..Against::default() }).unwrap();
            verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(errors(&empty), Vec::<String>::new());
        empty.parts[2].memory_size += 1;
        for other in [&empty, &own()] {
            assert!(errors(other)[0].contains("they differ at 0x2003000"), "{:?}", errors(other));
        }
    }

    #[test]
    fn code_of_another_service_is_an_error() {
        is_beyond("_ZN14cloister_tcpip3run17h0000000000000000E", "it is code of cloister_tcpip");
        is_beyond("cloister_main::run", "it is code of cloister_main");
        is_beyond(
            "<cloister_runtime::Kernel as cloister_kernel_core::Platform>::now",
            "it is code of cloister_kernel_core",
        );
    }

    #[test]
    fn a_capability_that_the_policy_does_not_give_is_an_error() {
        is_beyond("cloister_interfaces::capability::Power<S>::off", "for a Power, and the policy gives no power");
        is_beyond("cloister_interfaces::capability::Port<S>::send", "for a Port, and the policy gives no port");
    }

    /// Returns the program of `manager` with this number of symbols, all named by the same text,
    /// with or without its final NUL.
    fn many_symbols(count: usize, text: &str, end: bool) -> Vec<u8> {
        let mut elf = Elf { symbol: Some(("_start".to_owned(), 0x0200_1000)), ..program(1) }.build();
        let sections = u64::from_le_bytes(elf[40..48].try_into().unwrap()) as usize;
        let mut table = |section: usize, bytes: &[u8]| {
            elf.resize(elf.len().next_multiple_of(8), 0);
            let [offset, size] = [elf.len() as u64, bytes.len() as u64].map(u64::to_le_bytes);
            elf.extend_from_slice(bytes);
            let at = sections + section * 64;
            elf[at + 24..at + 40].copy_from_slice(&[offset, size].concat());
        };
        let mut symbol = [0; 24];
        symbol[..8].copy_from_slice(&[1, 0, 0, 0, 0x11, 0, 1, 0]);
        table(1, &symbol.repeat(count));
        table(2, &[&[0][..], text.as_bytes(), if end { &[0][..] } else { &[] }].concat());
        elf
    }

    /// Without a limit the work would be their number times the length of the name: minutes, with
    /// these numbers.
    #[test]
    fn the_names_of_symbols_are_bounded() {
        let long = "a".repeat(4 << 20);
        let of = |count, text: &str, end| findings(&many_symbols(count, text, end));
        assert_eq!(of(200_000, "main", true), [""; 0]);
        assert_eq!(of(7, &long, true), [""; 0]);
        let errors = of(200_000, &long, true);
        assert!(
            errors.len() == 1 && errors[0].contains("the names of its symbols have more than 67108864 bytes"),
            "{errors:?}"
        );
        let errors = of(200_000, &long, false);
        assert!(errors.len() == 1 && errors[0].contains("a symbol has no name that can be read"), "{errors:?}");
        let errors = of(200_000, "cloister_tcpip::run", true);
        assert!(errors.len() == 201 && errors[200].contains("its other symbols were not checked"), "{}", errors.len());
    }

    #[test]
    fn the_file_of_another_program_is_an_error() {
        assert!(findings(&program(2).build())[0].contains("is not that of the image"));
        assert!(findings(b"")[0].contains("cannot be read"));
        assert!(findings(&program(1).build())[0].contains("has no symbols"));
        let symbols = [("stranger".to_owned(), program(1).build())];
        let verdict = verify(&image(), &Against { symbols: &symbols, ..Against::default() }).unwrap();
        assert!(verdict.findings[0].message.contains("symbols are given for `stranger`"));
    }
}

/// The inventories in an image.
mod of_inventories {
    use cloister_policy::Extras;
    use common::image::pack_extras;

    use super::*;

    const CRATES: [&str; 3] = ["cloister-driver", "cloister-manager", "cloister-store"];

    fn sbom(crates: &[&str]) -> String {
        let list: Vec<String> =
            crates.iter().map(|name| format!("{{\"name\":\"{name}\",\"version\":\"1.0.0\"}}")).collect();
        format!("{{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.6\",\"components\":[{}]}}", list.join(","))
    }

    fn unsafe_uses(crates: &[&str], blocks: u64) -> String {
        let one = |name: &&str| {
            format!(
                "{{\"name\":\"{name}\",\"crate-version\":\"1.0.0\",\"forbids\":true,\"blocks\":{blocks},\
                 \"functions\":0,\"traits\":0,\"implementations\":0}}"
            )
        };
        let list: Vec<String> = crates.iter().map(one).collect();
        format!("{{\"format\":\"cloister-unsafe\",\"version\":1,\"crates\":[{}]}}", list.join(","))
    }

    fn with(sbom: &str, unsafe_uses: &str) -> Vec<u8> {
        let extras = Extras { sbom: Some(sbom.as_bytes()), unsafe_uses: Some(unsafe_uses.as_bytes()) };
        pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras)
    }

    #[test]
    fn inventories_that_agree_are_returned_unchanged() {
        let bill = sbom(&CRATES);
        let verdict = verify(&with(&bill, &unsafe_uses(&CRATES, 0)), &Against::default()).unwrap();
        assert!(verdict.holds(), "{}", verdict.text());
        assert_eq!(verdict.inventory.sbom, Some(bill));
        assert!(verdict.inventory.components.iter().map(|item| item.name.as_str()).eq(CRATES));
        assert!(verdict.text().contains("unsafe    cloister-manager 1.0.0       forbidden\n"), "{}", verdict.text());
    }

    #[test]
    fn a_loader_sees_nothing_of_them() {
        let (plain, attached) = (image(), with(&sbom(&CRATES), &unsafe_uses(&CRATES, 0)));
        let (one, two) = (headers(&plain).1, headers(&attached).1);
        assert_eq!(one.len(), two.len());
        let end =
            |headers: &[common::Header]| headers.iter().map(|load| load.physical_address + load.memory_size).max();
        assert_eq!(end(&one), end(&two));
    }

    /// Returns why an image with these inventories is refused.
    fn refusals(sbom: Option<&str>, unsafe_uses: Option<&str>) -> Vec<String> {
        let extras = Extras { sbom: sbom.map(str::as_bytes), unsafe_uses: unsafe_uses.map(str::as_bytes) };
        let file = pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras);
        let verdict = verify(&file, &Against::default()).unwrap();
        let errors = verdict.findings.iter().filter(|finding| finding.is_error());
        errors.map(|finding| finding.message.clone()).collect()
    }

    /// Both inventories have the same crates, name and version, each once; and each inventory has
    /// every program.
    #[test]
    fn an_inventory_lists_every_program_once_and_both_list_the_same() {
        let [driver, manager, store] = CRATES;
        let bill = sbom(&CRATES);
        let uses = unsafe_uses(&CRATES, 0);
        assert_eq!(refusals(Some(&bill), None), [""; 0]);
        assert_eq!(refusals(None, Some(&uses)), [""; 0]);
        let uncounted = CRATES.map(|name| format!("the inventory of `unsafe` does not count the program {name}"));
        assert_eq!(refusals(None, Some(&unsafe_uses(&[], 0))), uncounted);
        assert_eq!(refusals(None, Some(&unsafe_uses(&[store, driver], 0))), uncounted[1..2]);
        assert_eq!(refusals(Some(&bill), Some(&unsafe_uses(&[], 0))).len(), 6);
        let more = [driver, manager, store, "stranger"];
        assert_eq!(refusals(Some(&bill), Some(&unsafe_uses(&more, 0))), ["the SBOM does not list stranger 1.0.0"]);
        let other = ["the inventory of `unsafe` does not count stranger 1.0.0"];
        assert_eq!(refusals(Some(&sbom(&more)), Some(&uses)), other);
        let twice = [driver, manager, driver, store];
        let repeated = ["an inventory has cloister-driver 1.0.0 more than once"];
        assert_eq!(refusals(Some(&sbom(&twice)), Some(&uses)), repeated);
        assert_eq!(refusals(Some(&bill), Some(&unsafe_uses(&twice, 0))), repeated);
        let newer = uses.replacen("1.0.0", "9.9.9", 1);
        let both = [
            "the inventory of `unsafe` does not count cloister-driver 1.0.0",
            "the SBOM does not list cloister-driver 9.9.9",
        ];
        assert_eq!(refusals(Some(&bill), Some(&newer)), both);
        // Of two versions of a crate each is one.
        let versions = |inventory: &str| inventory.replacen("1.0.0", "9.9.9", 1);
        assert_eq!(refusals(Some(&versions(&sbom(&twice))), Some(&versions(&unsafe_uses(&twice, 0)))), [""; 0]);
    }

    #[test]
    fn a_name_and_a_version_have_visible_characters() {
        for odd in ["\\u3164", "\u{3164}", "\\ufe0f", "\u{2800}", "\\u202e", "é", "\\t", " "] {
            let bill = sbom(&[CRATES[0], CRATES[1], CRATES[2], &format!("serde{odd}")]);
            let found = refusals(Some(&bill), None);
            assert!(found.len() == 1 && found[0].starts_with("the SBOM is not CycloneDX in JSON"), "{odd}: {found:?}");
            let uses = unsafe_uses(&CRATES, 0).replacen("1.0.0", &format!("1.0.0{odd}"), 1);
            let found = refusals(None, Some(&uses));
            assert!(
                found.len() == 1 && found[0].starts_with("the inventory of `unsafe` cannot be read"),
                "{odd}: {found:?}"
            );
        }
    }

    #[test]
    fn inventories_that_do_not_agree_are_refused() {
        for (mut file, expected) in [
            (with(&sbom(&CRATES[1..]), &unsafe_uses(&CRATES, 0)), "the SBOM does not list the program cloister-driver"),
            (
                with(&sbom(&CRATES), &unsafe_uses(&CRATES[..2], 0)),
                "the inventory of `unsafe` does not count cloister-store",
            ),
            (
                with(&sbom(&CRATES), &unsafe_uses(&CRATES, 1)),
                "cloister-driver forbids `unsafe` and is listed with uses of it",
            ),
            (
                with(&sbom(&CRATES).replace("CycloneDX", "SPDX"), &unsafe_uses(&CRATES, 0)),
                "the SBOM is not CycloneDX in JSON",
            ),
            (with("<bom/>", &unsafe_uses(&CRATES, 0)), "the SBOM is not CycloneDX in JSON"),
            (
                with(&sbom(&CRATES), &unsafe_uses(&CRATES, 0).replace("\"version\":1", "\"version\":2")),
                "the inventory of `unsafe` cannot be read",
            ),
        ] {
            seal(&mut file);
            let verdict = verify(&file, &Against::default()).unwrap();
            let found = verdict.findings.iter().any(|finding| finding.is_error() && finding.message.contains(expected));
            assert!(found, "{expected}: {}", verdict.text());
        }
    }
}
