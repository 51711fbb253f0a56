//! Dependencies that are built in several versions: each but one is in `deny.toml`, with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use cargo_metadata::semver::{Version, VersionReq};
use cargo_metadata::{DependencyKind, Metadata, PackageId};

use super::Finding;

const DENY: &str = "deny.toml";

/// A version that may be there besides another one: `{ crate = "name:req", reason = "..." }`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Skip {
    name: String,
    versions: VersionReq,
}

pub(super) fn run(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let Ok(text) = std::fs::read_to_string(root.join(DENY)) else { return Ok(Vec::new()) };
    Ok(check(&built(metadata)?, &skips(&text)?))
}

/// Every version that a build for this machine compiles, tests left out.
fn built(metadata: &Metadata) -> anyhow::Result<BTreeMap<String, BTreeSet<Version>>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata gave no graph")?;
    let nodes: BTreeMap<&PackageId, _> =
        resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut ahead: Vec<&PackageId> = metadata.workspace_members.iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = ahead.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("{id} is not in the graph"))?;
        for dependency in &node.deps {
            let kinds = &dependency.dep_kinds;
            if kinds.iter().any(|kind| kind.kind != DependencyKind::Development) {
                ahead.push(&dependency.pkg);
            }
        }
    }
    let mut versions: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
    for package in metadata.packages.iter().filter(|package| seen.contains(&package.id)) {
        versions.entry(package.name.to_string()).or_default().insert(package.version.clone());
    }
    Ok(versions)
}

fn skips(deny: &str) -> anyhow::Result<Vec<Skip>> {
    let table: toml::Table = deny.parse().context(DENY)?;
    let skip = table.get("bans").and_then(|bans| bans.get("skip")).and_then(|skip| skip.as_array());
    let mut skips = Vec::new();
    for entry in skip.context("deny.toml has no bans.skip")? {
        let field = |name: &str| entry.get(name).and_then(|value| value.as_str());
        let (Some(spec), Some(reason)) = (field("crate"), field("reason")) else {
            bail!("{DENY}: {entry} in bans.skip must have a crate and a reason");
        };
        let (name, versions) = spec
            .split_once(':')
            .with_context(|| format!("{DENY}: crate is {spec:?}, but must be \"name:version\""))?;
        if reason.is_empty() {
            bail!("{DENY}: the reason of {spec:?} is empty");
        }
        let versions = versions.parse().with_context(|| format!("{DENY}: crate {spec:?}"))?;
        skips.push(Skip { name: name.to_owned(), versions });
    }
    Ok(skips)
}

fn check(built: &BTreeMap<String, BTreeSet<Version>>, skips: &[Skip]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, versions) in built.iter().filter(|(_, versions)| versions.len() > 1) {
        let skipped = |version: &&Version| {
            skips.iter().any(|skip| skip.name == *name && skip.versions.matches(version))
        };
        if versions.iter().filter(|version| !skipped(version)).count() > 1 {
            let all: Vec<_> = versions.iter().map(ToString::to_string).collect();
            let fact = format!("{name} is built as {}", all.join(", "));
            findings.push(Finding::new("Cargo.lock", 0, "duplicate", fact));
        }
    }
    for skip in skips {
        let is_needed = built.get(&skip.name).is_some_and(|versions| {
            versions.len() > 1 && versions.iter().any(|version| skip.versions.matches(version))
        });
        if !is_needed {
            let fact = format!("{}:{} is skipped and no duplicate", skip.name, skip.versions);
            findings.push(Finding::new(DENY, 0, "stale-skip", fact));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(versions: &[&str], skipped: &[&str], expect: &[&str]) {
        let set = versions.iter().map(|version| version.parse().unwrap()).collect();
        let built = BTreeMap::from([("a".to_owned(), set)]);
        let entry = |spec: &&str| format!("{{ crate = \"{spec}\", reason = \"r\" }},\n");
        let entries: String = skipped.iter().map(entry).collect();
        let skips = skips(&format!("[bans]\nskip = [\n{entries}]\n")).unwrap();
        let found = super::check(&built, &skips);
        let found: Vec<_> = found.iter().map(|finding| finding.fact.as_str()).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn all_versions_but_one_are_skipped() {
        check(&["1.0.0"], &[], &[]);
        check(&["1.0.0", "2.0.0"], &[], &["a is built as 1.0.0, 2.0.0"]);
        check(&["1.0.0", "2.0.0"], &["a:1"], &[]);
        check(&["1.0.0", "2.0.0", "3.1.0"], &["a:1"], &["a is built as 1.0.0, 2.0.0, 3.1.0"]);
        check(&["0.2.3", "0.3.0"], &["a:0.2"], &[]);
    }

    #[test]
    fn what_is_no_duplicate_is_not_skipped() {
        check(&["1.0.0"], &["a:1"], &["a:^1 is skipped and no duplicate"]);
        check(&["1.0.0", "2.0.0"], &["a:1", "b:1"], &["b:^1 is skipped and no duplicate"]);
    }

    #[test]
    fn a_skip_has_a_version_and_a_reason() {
        let broken = |entry: &str| skips(&format!("[bans]\nskip = [{entry}]")).is_err();
        assert!(broken("{ crate = \"a\", reason = \"r\" }"));
        assert!(broken("{ crate = \"a:1\" }"));
        assert!(broken("{ crate = \"a:1\", reason = \"\" }"));
        assert!(broken("{ crate = \"a:one\", reason = \"r\" }"));
    }
}
