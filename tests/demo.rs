//! The README's first command does what it says, from end to end.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::process::Command;

/// The demonstration judges itself: it fails when a tenant hears the other, or when the attacker costs anybody else a
/// fault. What is checked here is that it does run, refuse, quarantine, say so, and leave nothing behind.
#[test]
fn the_demonstration_shows_what_the_readme_says() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["demo", "--seconds", "5"])
        .env("TMPDIR", scratch.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let last = text.rsplit("demo: pid").next().unwrap();
    for word in [
        "unreachable",
        "malformed-chain",
        "qemu-system-x86_64",
        "path=/tmp/web.sock",
    ] {
        assert!(last.contains(word), "{word} is missing: {last}");
    }
    assert!(text.contains("mallory is quarantined"), "{text}");
    assert!(text.contains("guest memory was taken away"), "{text}");
    assert_eq!(
        std::fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "nothing stays behind"
    );
}
