//! A guest started by libvirt's own QEMU driver, without its daemon (`virt-qemu-run`).

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Bench;
use super::process::Process;

/// Ended when dropped, the VMM with it.
pub(crate) struct Libvirt {
    driver: Process,
    run: PathBuf,
}

impl Libvirt {
    /// Runs the domain that `xml` describes, with all of libvirt's files in the test's directory.
    pub(crate) fn start(bench: &Bench, xml: &str) -> Self {
        let root = bench.path("libvirt");
        let etc = root.join("etc");
        std::fs::create_dir_all(&etc).expect("a directory");
        // The daemon that would keep the guest's output is not there.
        std::fs::write(etc.join("qemu.conf"), "stdio_handler = \"file\"\n").expect("qemu.conf");
        let domain = bench.path("domain.xml");
        std::fs::write(&domain, xml).expect("the domain");
        // Seen as an ordinary user, the driver asks for no system accounts.
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-user=1000",
                "--map-group=1000",
                "virt-qemu-run",
                "--root",
            ])
            .args([&root, &domain])
            .env("XDG_RUNTIME_DIR", &root)
            .env("HOME", &root);
        let driver = Process::spawn("virt-qemu-run", &mut command, &bench.path("libvirt.log"));
        Self {
            driver,
            run: root.join("run"),
        }
    }

    /// The VMM, which outlives a driver that is killed.
    fn vmm(&self) -> Option<Pid> {
        let path = self.run.join("qemu/portcullis-guest.pid");
        Pid::from_raw(std::fs::read_to_string(path).ok()?.trim().parse().ok()?)
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        if self.driver.ended().is_some() {
            return;
        }
        let vmm = self.vmm();
        self.driver.signal(Signal::TERM);
        let start = Instant::now();
        while self.driver.ended().is_none() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.driver.ended().is_none()
            && let Some(vmm) = vmm
        {
            let _ = kill_process(vmm, Signal::KILL);
        }
    }
}
