//! The alerts are valid, fire when they should, and lead into the runbook.

use crate::scrape::{monitoring, tool};
use std::fs;

/// The values of `key: value` lines, in order.
fn values(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches([' ', '-']));
    let values = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    values.map(str::to_owned).collect()
}

fn promtool(arguments: &[&str]) {
    let output = tool("promtool")
        .args(arguments)
        .current_dir(monitoring(""))
        .output()
        .expect("no promtool, which scripts/tools.sh provides");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn prometheus_takes_them() {
    promtool(&["check", "rules", "alerts.yml"]);
}

#[test]
fn they_fire_when_they_should_and_not_just_before() {
    let alerts = fs::read_to_string(monitoring("alerts.yml")).unwrap();
    let tests = fs::read_to_string(monitoring("alerts_test.yml")).unwrap();
    let alerts = values(&alerts, "alert");
    assert_eq!(alerts.len(), 13);
    let tests: Vec<&str> = tests.split("alert_rule_test:").skip(1).collect();
    for alert in alerts {
        let of_alert = |test: &&&str| values(test, "alertname") == [alert.as_str()];
        let silent = |test: &&&str| test.contains("exp_alerts: []");
        let (silent, firing): (Vec<&&str>, Vec<&&str>) =
            tests.iter().filter(of_alert).partition(silent);
        assert!(
            !silent.is_empty(),
            "{alert} has no test in which it is silent"
        );
        assert!(!firing.is_empty(), "{alert} has no test in which it fires");
    }
    promtool(&["test", "rules", "alerts_test.yml"]);
}

#[test]
fn each_names_numbers_and_leads_to_its_place_in_the_runbook() {
    let alerts = fs::read_to_string(monitoring("alerts.yml")).unwrap();
    let runbook = fs::read_to_string("docs/too-many-relations.md").unwrap();
    let names = values(&alerts, "alert");
    let links = values(&alerts, "runbook_url");
    let expected = names
        .iter()
        .map(|name| format!("docs/too-many-relations.md#{}", name.to_lowercase()));
    assert_eq!(links, expected.collect::<Vec<_>>());
    let headings = values(&runbook.replace("\n## ", "\nheading: "), "heading");
    for (alert, rule) in names.iter().zip(alerts.split("- alert: ").skip(1)) {
        assert!(headings.contains(alert), "no {alert} among {headings:?}");
        assert!(rule.contains("  summary: "), "{rule}");
        let (_, description) = rule.split_once("  description: >-\n").unwrap();
        let (description, _) = description.split_once("runbook_url").unwrap();
        assert!(
            description.contains("$value") || description.contains(" 0\n"),
            "{description}"
        );
    }
}
