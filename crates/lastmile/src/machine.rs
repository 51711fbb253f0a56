//! How much memory this process may take: what its control group allows, what the machine has left, or what
//! its operator said.

use std::path::{Path, PathBuf};

/// A ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// What may be taken.
    pub bytes: u64,
    /// Who says so.
    pub source: String,
}

impl MemoryLimit {
    /// What this process may still take; `None` where the system does not say.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        MemoryLimit::read(Path::new("/"))
    }

    fn read(root: &Path) -> Option<Self> {
        let machine = available(root).map(|bytes| MemoryLimit {
            bytes,
            source: "the machine's available memory".to_owned(),
        });
        groups(root)
            .into_iter()
            .filter_map(|group| left_in(&group))
            .chain(machine)
            .min_by_key(|limit| limit.bytes)
    }
}

/// `MemAvailable`: what can be had without swapping.
fn available(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The control groups that this process is in, from the inside out.
fn groups(root: &Path) -> Vec<PathBuf> {
    let Ok(text) = std::fs::read_to_string(root.join("proc/self/cgroup")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next(), fields.next(), fields.next());
        let base = match controllers {
            Some("") => root.join("sys/fs/cgroup"),
            Some(names) if names.split(',').any(|name| name == "memory") => {
                root.join("sys/fs/cgroup/memory")
            }
            _ => continue,
        };
        let path = Path::new(path.unwrap_or("").trim_start_matches('/'));
        // Inside a container the path may be that of the host; the limit then stands at the root.
        found.extend(path.ancestors().map(|path| base.join(path)));
    }
    found
}

/// What a control group has left: its limit, less what is in use and cannot be dropped.
fn left_in(group: &Path) -> Option<MemoryLimit> {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
    };
    let (name, limit, used) = match number("memory.max") {
        Some(limit) => ("memory.max", limit, number("memory.current")),
        None => {
            let limit = number("memory.limit_in_bytes")?;
            ("memory.limit_in_bytes", limit, number("memory.usage_in_bytes"))
        }
    };
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let droppable = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(key, _)| matches!(*key, "inactive_file" | "active_file"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum::<u64>();
    let used = used.unwrap_or(0).saturating_sub(droppable);
    Some(MemoryLimit {
        bytes: limit.saturating_sub(used),
        source: format!("{name} of its control group"),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const MEMINFO: &str = "MemTotal:  8000000 kB\nMemAvailable:    4000 kB\n";

    #[track_caller]
    fn check(files: &[(&str, &str)], expect: Option<(u64, &str)>) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = MemoryLimit::read(root.path());
        assert_eq!(found.as_ref().map(|limit| (limit.bytes, limit.source.as_str())), expect);
    }

    #[test]
    fn the_tightest_limit_counts() {
        let machine = "the machine's available memory";
        check(&[], None);
        check(&[("proc/meminfo", "what")], None);
        check(&[("proc/meminfo", MEMINFO)], Some((4_096_000, machine)));
        let v2 = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "400000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 90000\nactive_file 10000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ];
        check(&v2, Some((700_000, "memory.max of its control group")));
        // In a container the path is often the host's.
        let rootless =
            [("proc/self/cgroup", "0::/gone\n"), ("sys/fs/cgroup/memory.max", "2000000")];
        check(&rootless, Some((2_000_000, "memory.max of its control group")));
        let v1 = [
            ("proc/self/cgroup", "3:cpu:/x\n2:memory,other:/x\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "5000000"),
            ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1000000"),
        ];
        check(&v1, Some((4_000_000, "memory.limit_in_bytes of its control group")));
        // Without a limit, version 1 shows a number that nothing reaches.
        let unlimited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "2:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        check(&unlimited, Some((4_096_000, machine)));
    }
}
