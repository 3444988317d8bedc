use cloister_sim::archive::cpio;

use super::*;

/// Returns a site of these files.
pub(crate) fn site(files: &[(&str, &[u8])]) -> Site {
    read(cpio(files)).expect("an archive")
}

/// Reads a site.
fn read(archive: Vec<u8>) -> Result<Site, Unreadable> {
    Site::new(archive.leak())
}

fn look(site: &Site, target: &str) -> String {
    match site.find(&Path::parse(target).unwrap()) {
        Found::Page => "page".into(),
        Found::File(file) => String::from_utf8_lossy(file.data).into_owned(),
        Found::Directory => "directory".into(),
        Found::Nothing => "nothing".into(),
    }
}

#[test]
fn an_index_and_a_walk_find_the_same() {
    let files: [(&str, &[u8]); 6] = [
        ("./b/index.html", b"b index"),
        ("./index.html", b"root"),
        ("b!", b"before the slash"),
        ("b0", b"after the slash"),
        ("c/d/e.txt", b"deep"),
        ("./index.html", b"later root"),
    ];
    let indexed = site(&files);
    let Site::Archive(walked) = site(&files) else { panic!("no archive") };
    for site in [&indexed, &Site::Archive(walked.without_index())] {
        for (target, expected) in [
            ("/", "later root"),
            ("/index.html", "later root"),
            ("/b", "directory"),
            ("/b/", "b index"),
            ("/b%21", "before the slash"),
            ("/c/d", "directory"),
            ("/c/d/", "nothing"),
            ("/c/d/e.txt", "deep"),
            ("/c/d/e.txt/", "nothing"),
            ("/c/d/e", "nothing"),
            ("/zz", "nothing"),
        ] {
            assert_eq!(look(site, target), expected, "{target}");
        }
    }
}

#[test]
fn without_an_archive_there_is_one_page() {
    let site = Site::new(b"").expect("the built-in page");
    assert_eq!((look(&site, "/"), look(&site, "/index.html")), ("page".into(), "page".into()));
    assert_eq!(look(&site, "/favicon.ico"), "nothing");
    assert!(matches!(Site::new(b"\x1f\x8b compressed"), Err(Unreadable::Format)));
}
