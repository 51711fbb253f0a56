//! What answers took, by key, by day and by model.

use lm_types::{Prices, TenantId};

use super::*;
use crate::{CostBy, CostLine};

fn priced(options: &mut StoreOptions) {
    options.prices = Prices {
        currency: "EUR".to_owned(),
        per_cpu_second: 2.0,
        per_million_input_tokens: 100_000.0,
        per_million_output_tokens: 1_000_000.0,
    };
}

#[test]
pub(super) fn sums_are_the_sums_of_their_rows_in_every_grouping() {
    let home = Home::new();
    let store = home.open_with(priced);
    let now = SystemTime::now();
    for i in 0..20_u128 {
        for choice in 0..2 {
            let mut event = event(i);
            event.choice = choice;
            event.request.tenant = TenantId(u64::try_from(i % 3).unwrap());
            event.model = if i % 2 == 0 { "even" } else { "odd" }.to_owned();
            event.arrived_at = now - u32::try_from(i % 4).unwrap() * DAY;
            event.timings.joules = (i % 5 != 0).then_some(1.5);
            store.record(&event);
        }
    }
    store.flush().unwrap();
    let check = |by: CostBy, n_groups: usize| {
        let lines = store.reader().costs(by, now - 30 * DAY).unwrap();
        assert_eq!(lines.len(), n_groups, "{by:?}");
        let mut total = CostLine::default();
        lines.iter().for_each(|line| total.add(line));
        assert_eq!((total.requests, total.answers), (20, 40), "{by:?}");
        // The answers of a request share its prompt of 10 tokens.
        assert_eq!((total.prompt_tokens, total.completion_tokens), (200, 80), "{by:?}");
        assert!((total.cpu_seconds - 10.0).abs() < 1e-9 && (total.wall_seconds - 2.0).abs() < 1e-9);
        assert_eq!((total.joules, total.answers_with_joules), (48.0, 32), "{by:?}");
        let cost = total.cost["EUR"];
        assert!((cost - (20.0 + 20.0 + 80.0)).abs() < 1e-6, "{by:?}: {cost}");
    };
    check(CostBy::Key, 3);
    check(CostBy::Model, 2);
    check(CostBy::Day, 4);
    let keys = store.reader().costs(CostBy::Key, now - 30 * DAY).unwrap();
    let names: Vec<&str> = keys.iter().map(|line| line.group.as_str()).collect();
    assert_eq!(names, ["", "0000000000000001", "0000000000000002"]);
    let today = store.reader().costs(CostBy::Model, now - DAY / 2).unwrap();
    assert_eq!(today.iter().map(|line| line.requests).sum::<u64>(), 5);
}

#[test]
pub(super) fn without_prices_there_is_no_cost_and_currencies_are_not_mixed() {
    let home = Home::new();
    let store = home.open();
    store.record(&event(1));
    drop(store);
    let store = home.open_with(priced);
    store.record(&event(2));
    drop(store);
    let store = home.open_with(|options| {
        priced(options);
        options.prices.currency = "USD".to_owned();
    });
    store.record(&event(3));
    store.flush().unwrap();
    let attempt = |id| store.reader().request(RequestId(id)).unwrap().unwrap().attempts.remove(0);
    assert_eq!((attempt(1).cost, attempt(1).currency, attempt(1).joules), (None, None, None));
    assert_eq!((attempt(2).cost, attempt(2).currency.as_deref()), (Some(3.5), Some("EUR")));
    let line = store.reader().costs(CostBy::Key, SystemTime::UNIX_EPOCH).unwrap().remove(0);
    let costs: Vec<_> = line.cost.iter().map(|(name, cost)| (name.as_str(), *cost)).collect();
    assert_eq!((line.requests, costs), (3, vec![("EUR", 3.5), ("USD", 3.5)]));
}
