use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"
# The guest of the tests.
name = "cloister"
type = "pvh"
kernel = "/srv/cloister/cloister.elf"
ramdisk = '/srv/cloister/site.cpio'
cmdline = "ip=192.0.2.10/24 gw=192.0.2.1"
memory = 16
maxmem = 16
vcpus = 1
vif = [ "bridge=xenbr0,mac=00:16:3e:01:02:03",   # one
]
tsc_mode = "native"; nomigrate = 1
max_grant_frames = 4
max_maptrack_frames = 0
max_event_channels = 32
on_poweroff = "destroy"
on_reboot = "restart"
on_crash = "restart"
"#;

fn needs() -> Needs {
    Needs { bytes: 3 << 20, domains: vec![(0, 0), (3, 5)], module: true, command_line: true, grants: 268, channels: 6 }
}

fn said(text: &str) -> Vec<String> {
    check(text, &needs()).iter().map(ToString::to_string).collect()
}

/// Returns what is said about the configuration with one text replaced.
#[track_caller]
fn with(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from}");
    said(&GOOD.replacen(from, to, 1))
}

#[track_caller]
fn refused(from: &str, to: &str, expected: &str) {
    let found = with(from, to);
    let one = found.iter().any(|message| message.starts_with("error: configuration: ") && message.contains(expected));
    assert!(one, "{to}: {found:#?}");
}

#[test]
fn a_configuration_that_fits_is_accepted() {
    assert_eq!(said(GOOD), [""; 0]);
    for (from, to) in [
        ("bridge=xenbr0,", "bridge=xenbr0,backend=4,"),
        ("bridge=xenbr0,", ""),
        ("ip=192.0.2.10/24 gw=192.0.2.1", "ip=dhcp offload=off udp-echo=7"),
        ("ip=192.0.2.10/24 gw=192.0.2.1", ""),
        ("memory = 16\nmaxmem = 16", "memory = \"3\""),
        ("name = ", "disk = []\npci = [ ]\nname = "),
        ("max_event_channels = 32", "max_event_channels = 6"),
    ] {
        assert_eq!(with(from, to), [""; 0], "{to}");
    }
}

#[test]
fn what_is_worth_knowing_is_a_notice() {
    for (from, to, expected) in [
        ("on_crash = \"restart\"", "on_crash = \"coredump-destroy\"", "writes the guest's memory to a file"),
        ("bridge=xenbr0,", "backend=netvm,", "`xl domid` must give one of 0, 3-5"),
        ("; nomigrate = 1", "", "`nomigrate = 1` is missing"),
        ("max_maptrack_frames = 0", "", "`max_maptrack_frames = 0` is missing"),
    ] {
        let found = with(from, to);
        assert!(found.len() == 1 && found[0].starts_with("notice: ") && found[0].contains(expected), "{to}: {found:?}");
    }
}

#[test]
fn what_the_image_needs_must_be_there() {
    refused("type = \"pvh\"", "", "without it xl starts the image as PV");
    refused("\"pvh\"", "\"hvm\"", "line 4: `type` is \"hvm\"; it must be pvh");
    refused("kernel = ", "#", "`kernel` is missing");
    refused("vcpus = 1", "", "write `vcpus = 1`");
    refused("vcpus = 1", "vcpus = 2", "the image runs on one processor");
    refused("memory = 16", "memory = 2", "take 3145728 bytes: write at least 3");
    refused("maxmem = 16", "maxmem = 32", "set both to one number");
    refused("max_grant_frames = 4", "max_grant_frames = 0", "grants of the policy need 1");
    refused("max_event_channels = 32", "max_event_channels = 5", "need 6");
    for other in ["0x10", "010", "1e1", "\"16 \"", "\"\"", "[ \"16\" ]", "99999999999999999999"] {
        refused("memory = 16", &format!("memory = {other}"), "`memory`");
    }
    let none = Needs { module: false, command_line: false, domains: Vec::new(), ..needs() };
    let found: Vec<String> = check(GOOD, &none).iter().map(ToString::to_string).collect();
    for (key, line) in [("cmdline", 7), ("ramdisk", 6), ("vif", 11)] {
        let start = format!("error: configuration: line {line}: `{key}` is set");
        assert!(found.iter().any(|message| message.starts_with(&start)), "{key}: {found:?}");
    }
    assert_eq!(found.len(), 3);
}

#[test]
fn devices_and_unknown_settings_are_refused() {
    for setting in [
        "disk = [ \"phy:/dev/sda,xvda,r\" ]",
        "pci = [ '01:00.0' ]",
        "usbctrl = [ \"type=pv\" ]",
        "vfb = [ \"vnc=1\" ]",
        "p9 = [ \"tag=x\" ]",
        "driver_domain = 1",
        "iomem = [ \"fe000,1\" ]",
        "nestedhvm = 1",
        "pvshim = 1",
    ] {
        refused("name = ", &format!("{setting}\nname = "), "something of which the policy does not speak");
    }
    for setting in [
        "device_model_version = \"x\"",
        "device_model_args = [ \"-x\" ]",
        "bootloader = \"pygrub\"",
        "firmware = \"uefi\"",
    ] {
        refused("name = ", &format!("{setting}\nname = "), "is for guests of another type");
    }
    refused("name = ", "passthrough = \"enabled\"\nname = ", "`passthrough` is");
    refused("max_grant_frames", "max_grant_frame", "`max_grant_frame` is not judged");
    refused("name = ", "extra = \"ip=dhcp\"\nname = ", "write all of it in `cmdline`");
    refused("\"native\"", "\"always_emulate\"", "it must be native or default");
    refused("\"destroy\"", "\"explode\"", "`on_poweroff` is \"explode\"");
}

#[test]
fn the_command_line_has_only_options_that_are_read() {
    for (line, expected) in [
        ("ip=192.0.2.10", "an address like"),
        ("ip=127.0.0.1/8", "an address like"),
        ("ip=192.0.2.10/33", "an address like"),
        ("ip=192.0.2.10/24 gw=x", "gw=192.0.2.1"),
        ("gw=192.0.2.1", "needs an address in `ip=`"),
        ("ip=dhcp gw=192.0.2.1", "needs an address in `ip=`"),
        ("ip=dhcp ip=dhcp", "more than once"),
        ("offload=no", "offload=on"),
        ("udp-echo=0", "a port like"),
        ("quiet", "no service reads `quiet`"),
        ("root=/dev/xvda1", "no service reads `root=/dev/xvda1`"),
    ] {
        refused("ip=192.0.2.10/24 gw=192.0.2.1", line, expected);
    }
    refused("ip=192.0.2.10/24", &"ip=dhcp ".repeat(600), "more than 4096 bytes");
}

#[test]
fn the_interface_has_its_back_end_where_the_policy_allows_it() {
    refused("bridge=xenbr0,", "backend=2,", "the policy allows 0, 3-5");
    refused("bridge=xenbr0,", "backend=4,backend=3,", "more than once");
    refused("bridge=xenbr0,", "model=e1000,", "`model` of `vif` is not judged");
    refused("00:16:3e:01:02:03", "00:16:3e:01:02", "`mac` of `vif` needs six numbers");
    refused("]\ntsc", "\"bridge=other\" ]\ntsc", "`vif` has 2 interfaces");
    refused("vif = [", "vif = \"x\"\ndisk = [", "`vif` is not a list");
    let elsewhere = Needs { domains: vec![(7, 7)], ..needs() };
    let found = check(GOOD, &elsewhere);
    assert!(found.len() == 1 && found[0].message.contains("build the image with `--backend 0`"), "{found:?}");
}

/// What xl reads otherwise than a careless reader.
#[test]
fn the_language_has_no_second_reading() {
    refused("name = ", "memory = 3\nname = ", "line 9: `memory` is set in line 3 too");
    refused("name = ", "vif += [ \"x\" ]\nname = ", "`+=` is not judged");
    refused("\"cloister\"", "\"clois\\x74er\"", "only quotes and `\\` may follow");
    refused("\"cloister\"", "\"cloister", "a text begins with \" and does not end in the line");
    refused("\"cloister\"", "\"a\" \"b\"", "there is more after the value of `name`");
    refused("\"cloister\"", "cloister", "is not a number, a text in quotes, or a list");
    refused("\"cloister\"", "[ [ \"a\" ] ]", "a list of lists");
    refused("\"cloister\"", "[ \"a\" \"b\" ]", "something else than texts between commas");
    refused("\"cloister\"", "[ , ]", "something else than texts between commas");
    refused("on_crash = \"restart\"\n", "vtpm = [ \"a\",\n", "a list without its end");
    refused("name = ", "Name = ", "xl does not read the character 'N'");
    refused("name = ", "(x) = ", "xl does not read the character '('");
    refused("\"cloister\"", "\"\u{202e}\"", "\\u{202e}");
    refused("name = ", "name ", "`name` needs `=` and a value");
    refused("type = ", "= \ntype = ", "a setting begins with a key");
    assert_eq!(said(&format!("{} on_watchdog='a\\'b'", GOOD.trim_end())).len(), 1, "quotes may be escaped");
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(?s).{0,200}") {
        let found = check(&text, &needs());
        prop_assert!(found.iter().any(Finding::is_error));
        prop_assert!(found.iter().all(|finding| finding.message.chars().all(crate::printable::is_plain)));
    }

    #[test]
    fn any_tokens_are_answered(words in prop::collection::vec("name|vif|memory|=|\\+=|\\[|\\]|,|;|\n|#|\"x\"|'y'|12", 0..40)) {
        prop_assert!(check(&words.join(" "), &needs()).iter().all(|finding| !finding.message.is_empty()));
    }
}
