//! Dependencies between our crates point one way.

use super::Violation;
use serde_json::Value;

/// Each crate may depend on those before it. `bundle` and the guests stand aside: they depend on none of them, and the
/// conformance guests only on the runtime that all guests share.
const LAYERS: [&str; 7] = [
    "plinth-memory",
    "plinth-host",
    "plinth-arch",
    "plinth-machine",
    "plinth-vmm",
    "plinth-vmx",
    "plinth-kernel",
];

/// Everything that runs on the bare machine or is part of what does: it must not depend on host programs.
const HOST_ONLY: [&str; 3] = ["plinth-xtask", "plinth-boot", "plinth-tests"];

/// Looks at the output of `cargo metadata --no-deps`.
#[must_use]
pub fn violations(metadata: &Value) -> Vec<Violation> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.flat_map(of_package).collect()
}

fn of_package(package: &Value) -> Vec<Violation> {
    let name = package["name"].as_str().unwrap_or_default();
    let place = package["manifest_path"].as_str().unwrap_or(name).to_owned();
    let violation = |message: String| Violation {
        place: place.clone(),
        message,
    };
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let mut found = Vec::new();
    for dependency in dependencies {
        let dependency_name = dependency["name"].as_str().unwrap_or_default();
        if !is_allowed(name, dependency_name) {
            found.push(violation(format!(
                "{name} must not depend on {dependency_name}: dependencies point one way ({})",
                LAYERS.join(" <- ")
            )));
        }
    }
    found
}

fn is_allowed(package: &str, dependency: &str) -> bool {
    if HOST_ONLY.contains(&package) || !dependency.starts_with("plinth-") {
        return true;
    }
    if HOST_ONLY.contains(&dependency) {
        return false;
    }
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (layer(package), layer(dependency)) {
        (Some(package), Some(dependency)) => dependency < package,
        // Only the hypervisor reads bundles.
        (Some(_), None) => dependency == "plinth-bundle" && package == "plinth-kernel",
        (None, _) => package == "plinth-conformance" && dependency == "plinth-guests",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(name: &str, dependencies: &[&str]) -> Vec<Violation> {
        let dependencies: Vec<_> = dependencies
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        violations(&json!({"packages": [
            {"name": name, "manifest_path": "Cargo.toml", "dependencies": dependencies}]}))
    }

    #[test]
    fn a_layer_may_use_those_below_it() {
        assert!(check("plinth-vmx", &["plinth-memory", "plinth-vmm", "bitflags"]).is_empty());
        assert!(check("plinth-kernel", &["plinth-vmx", "plinth-bundle"]).is_empty());
        assert!(check("plinth-tests", &["plinth-xtask", "plinth-bundle"]).is_empty());
    }

    #[test]
    fn a_layer_may_not_use_one_above_it() {
        assert_eq!(check("plinth-vmm", &["plinth-vmx"]).len(), 1);
        assert_eq!(check("plinth-memory", &["plinth-arch"]).len(), 1);
    }

    #[test]
    fn nothing_on_the_bare_machine_uses_a_host_program() {
        assert_eq!(check("plinth-kernel", &["plinth-xtask"]).len(), 1);
    }

    #[test]
    fn the_bundle_and_the_guests_stand_alone() {
        assert_eq!(check("plinth-bundle", &["plinth-memory"]).len(), 1);
        assert_eq!(check("plinth-guests", &["plinth-arch"]).len(), 1);
        assert_eq!(check("plinth-conformance", &["plinth-vmm"]).len(), 1);
        assert!(check("plinth-conformance", &["plinth-guests"]).is_empty());
    }
}
