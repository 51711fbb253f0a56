//! The detectors beside what the reference implementations say, as one table to quote:
//!
//! `cargo test --release -p lm-monitor detector_table -- --nocapture`

use super::*;

/// One line: what, whose value, what the reference says, what is found here.
struct Row {
    what: &'static str,
    by: &'static str,
    published: Vec<f64>,
    found: Vec<f64>,
}

fn row(what: &'static str, by: &'static str, published: Vec<f64>, found: Vec<f64>) -> Row {
    Row { what, by, published, found }
}

fn text(numbers: &[f64]) -> String {
    match numbers {
        [] => "none".to_owned(),
        some => some.iter().map(|number| format!("{number}")).collect::<Vec<_>>().join(" "),
    }
}

/// The positions at which streams alarm, from 0.
fn streams() -> Vec<Row> {
    let mut page_hinkley = PageHinkley::new(PageHinkleyOptions::default());
    let of_page_hinkley =
        alarms(&bells(1, &[0.0, 1.5, -1.0], 1000), |value| page_hinkley.add(value) == Level::Drift);
    let mut ddm = Ddm::new(DdmOptions::default());
    let of_ddm = alarms(&flips(2, &[0.2, 0.5, 0.1, 0.4], 1000), |value| {
        ddm.add(value > 0.5) == Level::Drift
    });
    let first = |values: &[f64]| {
        let mut adwin = Adwin::new(AdwinOptions::default());
        alarms(values, |value| adwin.add(value)).into_iter().next()
    };
    let published = |name: &str| -> Vec<f64> {
        golden(name).as_array().unwrap().iter().flat_map(numbers).collect()
    };
    let of_flips = (10..15).filter_map(|seed| first(&flips(seed, &[0.2, 0.5], 1000))).collect();
    let of_bells = (20..25).filter_map(|seed| first(&bells(seed, &[0.0, 1.0], 1000))).collect();
    let steady = first(&bells(30, &[0.0], 5000)).into_iter().collect();
    let by = "river 0.26.1";
    vec![
        row("Page-Hinkley, means 0 1.5 -1", by, numbers(&golden("page_hinkley")), of_page_hinkley),
        row("DDM, rates .2 .5 .1 .4", by, numbers(&golden("ddm")), of_ddm),
        row("ADWIN, rates .2 .5, 5 streams", by, published("adwin_flips"), of_flips),
        row("ADWIN, means 0 1, 5 streams", by, published("adwin_bells"), of_bells),
        row("ADWIN, no change", by, numbers(&golden("adwin_steady")), steady),
    ]
}

/// How far two windows are apart.
fn windows() -> Vec<Row> {
    let expect = golden("windows");
    let one = |name: &str| vec![expect[name].as_f64().unwrap()];
    let (a, b) = (bells(5, &[0.0], 300), bells(6, &[0.0], 400));
    let b: Vec<f64> = b.iter().map(|x| 1.2 * x + 0.3).collect();
    let counts = |i: usize| -> Vec<u64> {
        numbers(&expect["counts"][i]).into_iter().map(|n| n as u64).collect()
    };
    let (n, m) = (counts(0), counts(1));
    let (ks, chi) = (kolmogorov_smirnov(&a, &b).unwrap(), chi_square(&n, &m).unwrap());
    let by = "scipy";
    vec![
        row("KS: distance, p", by, numbers(&expect["ks"]), vec![ks.0, ks.1]),
        row("Wasserstein", by, one("wasserstein"), vec![wasserstein(&a, &b).unwrap()]),
        row("Jensen-Shannon", by, one("jensen_shannon"), vec![jensen_shannon(&n, &m)]),
        row("Hellinger", by, one("hellinger"), vec![hellinger(&n, &m)]),
        row("PSI", by, one("psi"), vec![psi(&n, &m)]),
        row("chi-square: statistic, p", by, numbers(&expect["chi_square"]), vec![chi.0, chi.1]),
    ]
}

/// Tails, limits and adjusted values.
fn tails() -> Vec<Row> {
    let column = |name: &str, i: usize| -> Vec<f64> {
        golden(name).as_array().unwrap().iter().map(|row| row[i].as_f64().unwrap()).collect()
    };
    let pairs = |name: &str| column(name, 0).into_iter().zip(column(name, 1));
    let tail = pairs("chi_square_tail").map(|(x, n)| chi_square_tail(x, n as u32)).collect();
    let limit = pairs("chi_square_limit").map(|(a, n)| chi_square_limit(a, n as u32)).collect();
    let kolmogorov = column("kolmogorov_tail", 0).into_iter().map(kolmogorov_tail).collect();
    let adjusted = golden("benjamini_hochberg");
    let found = benjamini_hochberg(&numbers(&adjusted[0]));
    let by = "scipy";
    vec![
        row("chi-square tail", by, column("chi_square_tail", 2), tail),
        row("chi-square limit", by, column("chi_square_limit", 2), limit),
        row("Kolmogorov's tail", by, column("kolmogorov_tail", 1), kolmogorov),
        row("Benjamini-Hochberg", by, numbers(&adjusted[1]), found),
    ]
}

#[test]
fn detector_table() {
    let rows: Vec<Row> = streams().into_iter().chain(windows()).chain(tails()).collect();
    println!("| detector | reference | it says | here | largest relative error |");
    println!("|---|---|---|---|---|");
    for Row { what, by, published, found } in &rows {
        assert_eq!(published.len(), found.len(), "{what}");
        let error = |(a, b): (&f64, &f64)| (a - b).abs() / a.abs().max(f64::MIN_POSITIVE);
        let largest = published.iter().zip(found).map(error).fold(0.0, f64::max);
        println!("| {what} | {by} | {} | {} | {largest:.1e} |", text(published), text(found));
        assert!(largest <= 1e-6, "{what}: {largest:e}");
    }
}
