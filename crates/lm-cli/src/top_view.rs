//! What `top` draws. It must fit 80 by 24, and narrower terminals lose columns, not lines.

use std::collections::VecDeque;

use lm_panel::{Alert, Latency, Level, ModelNow, Now};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table};

/// What is shown.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) url: String,
    /// The newest state; empty before the first.
    pub(crate) now: Now,
    /// Why the newest look brought none.
    pub(crate) problem: Option<String>,
    /// Tokens a second, oldest first.
    pub(crate) throughput: VecDeque<u64>,
    pub(crate) is_paused: bool,
}

/// One column of the table of models.
struct Column {
    title: &'static str,
    width: u16,
    /// Columns of a lower rank go first when it is narrow.
    rank: u8,
    cell: fn(&ModelNow) -> String,
}

static COLUMNS: [Column; 9] = [
    Column { title: "MODEL", width: 16, rank: 9, cell: |m| clean(&m.name) },
    Column { title: "TOK/S", width: 6, rank: 8, cell: |m| count(m.generation_tokens_per_s) },
    Column { title: "RUN", width: 4, rank: 7, cell: |m| m.running.to_string() },
    Column { title: "WAIT", width: 5, rank: 6, cell: |m| m.waiting.to_string() },
    Column { title: "KV", width: 4, rank: 5, cell: |m| percent(m.kv_usage) },
    Column { title: "TTFT 50/99", width: 13, rank: 4, cell: |m| latency(m.ttft_ms) },
    Column { title: "GAP 50/99", width: 13, rank: 3, cell: |m| latency(m.gap_ms) },
    Column { title: "CPU", width: 5, rank: 1, cell: |m| format!("{:.1}", m.cpu_cores) },
    Column { title: "ERR/S", width: 5, rank: 2, cell: |m| count(m.errors_per_s) },
];

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let n_models = u16::try_from(view.now.models.len()).unwrap_or(u16::MAX).min(6);
    let n_alerts = u16::try_from(view.now.alerts.len()).unwrap_or(u16::MAX).min(4);
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(n_models + 2),
        Constraint::Length(4),
        Constraint::Length(n_models + 2),
        Constraint::Length(if n_alerts > 0 { n_alerts + 2 } else { 0 }),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [head, models, curve, costs, alerts, errors, keys] = area.layout(&rows);
    frame.render_widget(Paragraph::new(header(view)), head);
    frame.render_widget(table(&view.now.models, models.width), models);
    sparkline(frame, view, curve);
    frame.render_widget(Paragraph::new(cost(&view.now)), costs);
    frame.render_widget(Paragraph::new(alert_lines(&view.now.alerts)), alerts);
    frame.render_widget(Paragraph::new(error_lines(&view.now)), errors);
    let paused = if view.is_paused { "  PAUSED" } else { "" };
    frame.render_widget(Paragraph::new(dim(format!("q quit  p pause{paused}"))), keys);
}

fn header(view: &View) -> Vec<Line<'static>> {
    let (now, bold) = (&view.now, Style::new().add_modifier(Modifier::BOLD));
    let title = Span::styled("lastmile top", bold);
    if let Some(problem) = &view.problem {
        let problem = Span::styled(clean(problem), Style::new().fg(Color::Red));
        return vec![Line::from(vec![title, "  ".into(), clean(&view.url).into()]), problem.into()];
    }
    let color = match now.server.status.as_str() {
        "ok" if now.alerts.is_empty() => Color::Green,
        "ok" => Color::Yellow,
        _ => Color::Red,
    };
    let status = Span::styled(clean(&now.server.status), Style::new().fg(color).patch(bold));
    let up = now.models.iter().map(|model| model.uptime_s).fold(0.0, f64::max);
    let (url, version) = (clean(&view.url), clean(&now.server.version));
    let resident = now
        .server
        .resident_bytes
        .map_or_else(String::new, |bytes| format!("  memory {} MiB", bytes >> 20));
    let (open, limit) = (now.server.open_requests, now.server.open_requests_limit);
    let second = format!("up {}  requests {open}/{limit}{resident}", duration(up));
    vec![Line::from(vec![title, format!("  {url}  {version}  ").into(), status]), dim(second)]
}

fn table(models: &[ModelNow], width: u16) -> Table<'static> {
    let columns = fitting(width);
    let widths: Vec<Constraint> = columns.iter().map(|c| Constraint::Length(c.width)).collect();
    let aligned = |column: &Column, text: String| {
        let line = Line::from(text);
        if column.title == "MODEL" { line } else { line.right_aligned() }
    };
    let head = Row::new(columns.iter().map(|c| aligned(c, c.title.to_owned())));
    let rows = models.iter().map(|model| {
        Row::new(columns.iter().map(|c| aligned(c, (c.cell)(model))).collect::<Vec<_>>())
    });
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(head.style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(1)
}

/// The columns of the highest ranks that fit, in their order.
fn fitting(width: u16) -> Vec<&'static Column> {
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    let taken = |columns: &[&Column]| columns.iter().map(|c| c.width + 1).sum::<u16>();
    while columns.len() > 1 && taken(&columns) > width + 1 {
        let lowest = columns.iter().map(|column| column.rank).min();
        columns.retain(|column| Some(column.rank) != lowest);
    }
    columns
}

fn sparkline(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let [title, curve, _] = area.layout(&Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Min(0),
    ]));
    let most = view.throughput.iter().max().copied().unwrap_or(0);
    frame.render_widget(Paragraph::new(dim(format!("tokens/s, at most {most}"))), title);
    let n_shown = usize::from(area.width).min(view.throughput.len());
    let shown = view.throughput.iter().skip(view.throughput.len() - n_shown).copied();
    let line = Sparkline::default().data(shown.collect::<Vec<_>>()).max(most.max(1));
    frame.render_widget(line.style(Style::new().fg(Color::Cyan)), curve);
}

fn cost(now: &Now) -> Vec<Line<'static>> {
    let title = Line::styled("COST SINCE START", Style::new().add_modifier(Modifier::BOLD));
    let lines = now.models.iter().map(|model| {
        let tokens = model.generation_tokens;
        let per_1k = match tokens {
            0 => "-".to_owned(),
            n => format!("{:.2}", 1000.0 * model.cpu_seconds / n as f64),
        };
        let hits = model.prefix_hit_ratio.map_or("-".to_owned(), percent);
        Line::from(format!(
            "{:<16.16} {} tok out, {} in, {:.1} CPU s, {per_1k} CPU s/1k tok, prefix {hits}",
            clean(&model.name),
            count(tokens as f64),
            count(model.prompt_tokens as f64),
            model.cpu_seconds,
        ))
    });
    std::iter::once(title).chain(lines.collect::<Vec<_>>()).collect()
}

fn alert_lines(alerts: &[Alert]) -> Vec<Line<'static>> {
    let title = Line::styled("ALERTS", Style::new().add_modifier(Modifier::BOLD));
    let lines = alerts.iter().map(|alert| {
        let (word, color) = match alert.level {
            Level::Critical => ("critical", Color::Red),
            Level::Warning => ("warning ", Color::Yellow),
        };
        let word = Span::styled(word, Style::new().fg(color));
        Line::from(vec![word, format!("  {}", clean(&alert.what)).into()])
    });
    std::iter::once(title).chain(lines.collect::<Vec<_>>()).collect()
}

fn error_lines(now: &Now) -> Vec<Line<'static>> {
    let title = Line::styled("LAST ERRORS", Style::new().add_modifier(Modifier::BOLD));
    if now.last_errors.is_empty() {
        return vec![title, dim("none".to_owned())];
    }
    let lines = now.last_errors.iter().map(|error| {
        let at = lm_ops::Utc(error.arrived_at_ms).to_string();
        let time = at.get(11..19).unwrap_or(&at).to_owned();
        let message = error.message.as_deref().unwrap_or("(not kept)");
        Line::from(format!("{time} {}  {}", clean(&error.code), clean(message)))
    });
    std::iter::once(title).chain(lines.collect::<Vec<_>>()).collect()
}

fn dim(text: String) -> Line<'static> {
    Line::styled(text, Style::new().add_modifier(Modifier::DIM))
}

/// What others wrote must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 10.0 || v == v.round() => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

fn latency(latency: Option<Latency>) -> String {
    let one = |ms: f64| match ms {
        v if v >= 9_950.0 => format!("{:.0}s", v / 1000.0),
        v if v >= 995.0 => format!("{:.1}s", v / 1000.0),
        v if v >= 9.95 => format!("{v:.0}ms"),
        v => format!("{v:.1}ms"),
    };
    latency.map_or("-".to_owned(), |latency| format!("{}/{}", one(latency.p50), one(latency.p99)))
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0) as u64;
    match minutes {
        0 => format!("{seconds:.0} s"),
        1..60 => format!("{minutes} min"),
        60..1440 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} d {} h", minutes / 1440, minutes / 60 % 24),
    }
}

/// The characters of a frame, without what fills lines up.
pub(crate) fn text_of(buffer: &Buffer) -> String {
    let area = buffer.area();
    let line = |y: u16| {
        let cells = (0..area.width).filter_map(|x| buffer.cell((x, y)));
        cells.map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
    };
    (0..area.height).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use lm_panel::{Latency, ModelNow, Now, RecentError, ServerNow, alerts};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::{View, draw, text_of};

    fn view() -> View {
        let latency = |p50, p99| Some(Latency { p50, p99, n: 100 });
        let model = |name: &str| ModelNow {
            name: name.to_owned(),
            uptime_s: 3725.0,
            running: 32,
            waiting: 117,
            kv_usage: 0.97,
            generation_tokens_per_s: 812.4,
            finished_per_s: 12.0,
            errors_per_s: 0.2,
            cpu_cores: 7.93,
            ttft_ms: latency(84.2, 1210.0),
            gap_ms: latency(9.81, 61.0),
            prefix_hit_ratio: Some(0.62),
            generation_tokens: 1_234_567,
            prompt_tokens: 98_765,
            cpu_seconds: 8123.4,
            ..ModelNow::default()
        };
        let mut now = Now {
            at_ms: 1_700_000_000_000,
            server: ServerNow {
                version: "0.1.0".to_owned(),
                status: "ok".to_owned(),
                open_requests: 149,
                open_requests_limit: 2048,
                resident_bytes: Some(1_500 << 20),
                ..ServerNow::default()
            },
            models: vec![
                model("smollm2-135m-instruct"),
                ModelNow { name: "idle".to_owned(), ..ModelNow::default() },
            ],
            last_errors: vec![RecentError {
                request_id: "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".to_owned(),
                arrived_at_ms: 1_700_000_000_000,
                model: "idle".to_owned(),
                code: "queue_full".to_owned(),
                message: Some("1024 requests wait\u{1b}[31m already".to_owned()),
            }],
            ..Now::default()
        };
        now.alerts = alerts(&now);
        let mut view = View { url: "http://127.0.0.1:8080".to_owned(), ..View::default() };
        for i in 0..60 {
            view.take(Ok(Now {
                models: vec![ModelNow {
                    generation_tokens_per_s: f64::from(i),
                    ..ModelNow::default()
                }],
                ..Now::default()
            }));
        }
        view.take(Ok(now));
        view
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        text_of(terminal.backend().buffer())
    }

    #[test]
    fn a_terminal_of_80_by_24_shows_everything() {
        insta::assert_snapshot!(drawn(&view(), 80, 24));
    }

    #[test]
    fn narrow_terminals_lose_columns() {
        insta::assert_snapshot!(drawn(&view(), 46, 20));
    }

    #[test]
    fn a_server_that_does_not_answer_is_said_and_the_last_numbers_stay() {
        let mut view = view();
        view.take(Err("no answer: connection refused".to_owned()));
        let text = drawn(&view, 80, 24);
        assert!(text.contains("connection refused") && text.contains("smollm2"), "{text}");
        assert!(!text.contains('\u{1b}'));
        for (width, height) in [(1, 1), (3, 40), (200, 2)] {
            drawn(&view, width, height);
        }
    }
}
