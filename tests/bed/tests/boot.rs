//! `cargo xtask boot` as people use it, on real Xen. `cargo xtask test` names the program in
//! `CLOISTER_XTASK`.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn boot(port: u16) -> Command {
    let program = std::env::var_os("CLOISTER_XTASK").expect("CLOISTER_XTASK: run this by `cargo xtask test --xen`");
    let mut command = Command::new(program);
    command.args(["boot", "--port", &port.to_string()]).stdin(Stdio::null());
    command
}

/// Starts `boot`, and waits for the URL. Returns the port in it, and the output, which must stay
/// open.
fn booted() -> (Child, u16, BufReader<ChildStdout>) {
    let mut child = boot(0).stdout(Stdio::piped()).spawn().expect("start");
    let output = child.stdout.take().expect("piped");
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    let port = line.trim_end().trim_start_matches("http://127.0.0.1:").trim_end_matches('/').parse();
    (child, port.unwrap_or_else(|_| panic!("no URL: {line}")), output)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signal");
}

/// Returns `true` if the port becomes free within `limit`: QEMU holds it as long as it lives.
fn freed(port: u16, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

#[test]
fn exec_gets_the_url_and_its_status_is_passed_on() {
    let script = r#"curl -fsS "$CLOISTER_URL" > /dev/null || exit 1; exit 7"#;
    let output = boot(0).args(["--exec", script]).output().expect("run");
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_taken_port_is_an_error_at_once() {
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let port = holder.local_addr().expect("address").port();
    let output = boot(port).output().expect("run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains(&port.to_string()), "{stderr}");
    // It fails before anything is built or started.
    assert!(!stderr.contains("building") && !stderr.contains("starting"), "{stderr}");
}

#[test]
fn ctrl_c_ends_it_in_order_and_leaves_no_qemu() {
    let (mut child, port, _output) = booted();
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().expect("end").code(), Some(0));
    assert!(freed(port, Duration::from_millis(100)), "QEMU is still there");
}

#[test]
fn a_killed_boot_leaves_no_qemu() {
    let (mut child, port, _output) = booted();
    signal(&child, Signal::SIGKILL);
    child.wait().expect("end");
    assert!(freed(port, Duration::from_secs(5)), "QEMU is still there");
}
