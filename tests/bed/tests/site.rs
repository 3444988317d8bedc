//! A site served from real Xen: whole files, many clients, and clients that misbehave.
#![forbid(unsafe_code)]

mod support;

use std::io::{Read, Write};
use std::sync::LazyLock;
use std::time::Duration;

use cloister_bed::{Bed, Guest};
use cloister_cpio::Archive;
use sha2::{Digest, Sha256};
use support::{assert_serves, client, connect, guest, raw, serving, status};

const FILES: [(&str, usize); 4] = [("1", 1), ("100K", 100_000), ("10M", 10_000_000), ("100M", 100_000_000)];
const LIMIT: Duration = Duration::from_secs(60);

/// One bed for all tests of this file. QEMU ends with this program.
static BED: LazyLock<Bed> = LazyLock::new(|| {
    let mut archive = Archive::new(Vec::new());
    archive.file("index.html", 0o644, b"<h1>site</h1>").expect("in memory");
    for (name, size) in FILES {
        archive.file(name, 0o644, &content(size)).expect("in memory");
    }
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), archive.finish().expect("in memory")).expect("write");
    let guest = Guest { memory: 192, ramdisk: Some(file.path().to_owned()), ..guest("default") };
    serving("site", &guest)
});

/// Returns bytes that repeat only after 2^64 steps (xorshift64), so that a misplaced page is found.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64 ^ size as u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(step).flatten().take(size).collect()
}

#[test]
fn files_of_all_sizes_arrive_as_they_are() {
    for (name, size) in FILES {
        let mut answer = client().get(format!("{}{name}", BED.url())).call().expect("an answer");
        assert_eq!(answer.status(), 200);
        let (mut hash, mut length) = (Sha256::new(), 0);
        let mut body = answer.body_mut().as_reader();
        let mut piece = vec![0; 1 << 16];
        loop {
            match body.read(&mut piece).expect("the whole body") {
                0 => break,
                count => {
                    hash.update(&piece[..count]);
                    length += count;
                }
            }
        }
        assert_eq!(length, size);
        assert_eq!(hash.finalize(), Sha256::digest(content(size)), "{name}");
    }
}

#[test]
fn a_thousand_requests_one_after_the_other() {
    let client = client();
    for number in 0..1000 {
        let mut answer = client.get(BED.url()).call().unwrap_or_else(|error| panic!("request {number}: {error}"));
        assert_eq!(answer.body_mut().read_to_string().expect("text"), "<h1>site</h1>");
    }
}

#[test]
fn forty_clients_at_once() {
    let wanted = content(100_000);
    std::thread::scope(|scope| {
        for number in 0..40 {
            let wanted = &wanted;
            scope.spawn(move || {
                let url = format!("{}100K", BED.url());
                let mut answer = client().get(url).call().unwrap_or_else(|error| panic!("client {number}: {error}"));
                assert!(answer.body_mut().read_to_vec().expect("body") == *wanted, "client {number}");
            });
        }
    });
}

#[test]
fn an_unknown_path_is_not_found() {
    assert_eq!(client().get(format!("{}none", BED.url())).call().expect("an answer").status(), 404);
    assert_serves(&BED);
}

#[test]
fn a_bad_request_is_refused_and_the_next_client_served() {
    for request in [&b"nonsense\r\n\r\n"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let answer = raw(&BED, request, LIMIT);
        let refused = status(&answer).is_none_or(|status| (400..600).contains(&status));
        assert!(refused, "{request:?}: {}", String::from_utf8_lossy(&answer));
        assert_serves(&BED);
    }
}

/// No image that ships contains the sink to which benchmarks upload.
#[test]
fn uploads_are_refused() {
    for (path, refusal) in [("sink", 404), ("", 405), ("1", 405)] {
        let request = format!("POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n");
        let answer = raw(&BED, request.as_bytes(), LIMIT);
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status(&answer), Some(refusal), "{path}: {text}");
        assert_eq!(text.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), refusal == 405, "{text}");
    }
    assert_serves(&BED);
}

#[test]
fn a_header_of_a_mebibyte_is_refused_and_the_next_client_served() {
    let request = [b"GET / HTTP/1.1\r\nHost: x\r\nA: ", vec![b'a'; 1 << 20].as_slice(), b"\r\n\r\n"].concat();
    let answer = raw(&BED, &request, LIMIT);
    // A reset instead of an answer counts as a close: the server does not read what it has refused.
    assert!(matches!(status(&answer), None | Some(400 | 413 | 414 | 431)), "{}", String::from_utf8_lossy(&answer));
    assert_serves(&BED);
}

#[test]
fn a_client_is_served_beside_two_hundred_silent_connections() {
    let silent: Vec<_> = (0..200).map(|_| connect(&BED, LIMIT)).collect();
    for _ in 0..5 {
        assert_serves(&BED);
    }
    drop(silent);
    assert_serves(&BED);
}

#[test]
fn a_client_that_stops_in_the_middle_blocks_no_other() {
    let mut stream = connect(&BED, LIMIT);
    stream.write_all(b"GET /100M HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    let mut piece = [0; 100_000];
    stream.read_exact(&mut piece).expect("a beginning");
    assert_serves(&BED);
    drop(stream);
    assert_serves(&BED);
}
