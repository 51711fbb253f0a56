//! Page-Hinkley, two-sided CUSUM and DDM: detectors that see each value once and keep a few numbers.
//!
//! They must never look back.
//!
//! Start reading at [`PageHinkley::add`].

/// What a detector says after a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing unusual.
    Steady,
    /// Perhaps a change.
    Warning,
    /// A change. With the next value the detector begins anew.
    Drift,
}

/// Parameters of [`PageHinkley`]; the default is what the literature uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PageHinkleyOptions {
    /// Values before anything is said.
    pub min_values: u64,
    /// Changes of the mean smaller than this are let pass, in units of the values.
    pub delta: f64,
    /// The sum of deviations that is a change, in units of the values.
    pub threshold: f64,
    /// How much of the sum is kept from value to value, up to 1.
    pub forgetting: f64,
}

/// The Page-Hinkley test for a change of the mean up or down. Source: Page 1954; Mouss et al. 2004.
#[derive(Clone, Debug)]
pub struct PageHinkley {
    options: PageHinkleyOptions,
    n: u64,
    mean: f64,
    up: f64,
    down: f64,
    least_up: f64,
    most_down: f64,
    drifted: bool,
}

/// Parameters of [`Cusum`], in standard deviations of the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CusumOptions {
    /// The mean in control, in units of the values.
    pub mean: f64,
    /// The standard deviation in control, in units of the values. More than 0.
    pub sd: f64,
    /// Half the shift that is to be found, in standard deviations.
    pub k: f64,
    /// The sum that is a change, in standard deviations.
    pub h: f64,
}

/// The tabular two-sided CUSUM. Source: Page 1954; Montgomery, Statistical Quality Control, 9.1.
#[derive(Clone, Debug)]
pub struct Cusum {
    options: CusumOptions,
    above: f64,
    below: f64,
    drifted: bool,
}

/// Parameters of [`Ddm`]; the default is what the paper uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdmOptions {
    /// Values before anything is said.
    pub min_values: u64,
    /// Standard deviations above the best rate that are a warning.
    pub warning: f64,
    /// Standard deviations above the best rate that are a change.
    pub drift: f64,
}

/// The drift detection method for a rate of failures that rises. Source: Gama et al. 2004.
#[derive(Clone, Debug)]
pub struct Ddm {
    options: DdmOptions,
    n: u64,
    rate: f64,
    best_rate: f64,
    best_sd: f64,
    drifted: bool,
}

impl Default for PageHinkleyOptions {
    fn default() -> Self {
        let forgetting = 1.0 - 0.0001;
        PageHinkleyOptions { min_values: 30, delta: 0.005, threshold: 50.0, forgetting }
    }
}

impl PageHinkley {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(options: PageHinkleyOptions) -> PageHinkley {
        PageHinkley {
            options,
            n: 0,
            mean: 0.0,
            up: 0.0,
            down: 0.0,
            least_up: f64::INFINITY,
            most_down: -1.0,
            drifted: false,
        }
    }

    /// The next value.
    pub fn add(&mut self, value: f64) -> Level {
        if self.drifted {
            *self = PageHinkley::new(self.options);
        }
        let PageHinkleyOptions { min_values, delta, threshold, forgetting } = self.options;
        self.n += 1;
        self.mean += (value - self.mean) / self.n as f64;
        let deviation = value - self.mean;
        self.up = forgetting * self.up + deviation - delta;
        self.down = forgetting * self.down + deviation + delta;
        self.least_up = self.least_up.min(self.up);
        self.most_down = self.most_down.max(self.down);
        let most = (self.up - self.least_up).max(self.most_down - self.down);
        self.drifted = self.n >= min_values && most > threshold;
        if self.drifted { Level::Drift } else { Level::Steady }
    }
}

impl Cusum {
    /// A detector that has seen nothing.
    ///
    /// # Panics
    /// When `sd` is not more than 0.
    #[must_use]
    pub fn new(options: CusumOptions) -> Cusum {
        assert!(options.sd > 0.0, "sd is {}, but must be more than 0", options.sd);
        Cusum { options, above: 0.0, below: 0.0, drifted: false }
    }

    /// The next value.
    pub fn add(&mut self, value: f64) -> Level {
        if self.drifted {
            *self = Cusum::new(self.options);
        }
        let CusumOptions { mean, sd, k, h } = self.options;
        let z = (value - mean) / sd;
        self.above = (self.above + z - k).max(0.0);
        self.below = (self.below - z - k).max(0.0);
        self.drifted = self.above.max(self.below) > h;
        if self.drifted { Level::Drift } else { Level::Steady }
    }
}

impl Default for DdmOptions {
    fn default() -> Self {
        DdmOptions { min_values: 30, warning: 2.0, drift: 3.0 }
    }
}

impl Ddm {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(options: DdmOptions) -> Ddm {
        let best = f64::INFINITY;
        Ddm { options, n: 0, rate: 0.0, best_rate: best, best_sd: best, drifted: false }
    }

    /// Whether the next one failed.
    pub fn add(&mut self, failed: bool) -> Level {
        if self.drifted {
            *self = Ddm::new(self.options);
        }
        let DdmOptions { min_values, warning, drift } = self.options;
        self.n += 1;
        let n = self.n as f64;
        self.rate += (f64::from(u8::from(failed)) - self.rate) / n;
        let sd = (self.rate * (1.0 - self.rate) / n).max(0.0).sqrt();
        if self.n <= min_values {
            return Level::Steady;
        }
        let now = self.rate + sd;
        if now <= self.best_rate + self.best_sd {
            (self.best_rate, self.best_sd) = (self.rate, sd);
        }
        self.drifted = now > self.best_rate + drift * self.best_sd;
        if self.drifted {
            Level::Drift
        } else if now > self.best_rate + warning * self.best_sd {
            Level::Warning
        } else {
            Level::Steady
        }
    }
}
