"""The samplers' published formulas, one number at a time: slow, literal, and in other variables than ours.

Where a paper writes its formulas in alpha and sigma (a noised image is alpha * image + sigma * noise), they
are written in these. All take denoise(x, sigma) with x = image + sigma * noise, and noise
sources of one element.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import integrate

Denoise = Callable[[float, float], float]
Draw = Callable[[], float]
Between = Callable[[float, float], float]


def alpha(s: float) -> float:
    return 1 / math.sqrt(1 + s * s)


def lam(s: float) -> float:
    return -math.log(s)


def euler(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    for i in range(len(s) - 1):
        x = x + (s[i + 1] - s[i]) * (x - D(x, s[i])) / s[i]
    return x


def ddim(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """Song et al. (2021), eq. 12 with sigma of eq. 16."""
    z = x * alpha(s[0])
    for i in range(len(s) - 1):
        a, a_prev = alpha(s[i]) ** 2, alpha(s[i + 1]) ** 2
        x0 = D(z / math.sqrt(a), s[i])
        eps = (z - math.sqrt(a) * x0) / math.sqrt(1 - a)
        std = eta * math.sqrt((1 - a_prev) / (1 - a)) * math.sqrt(1 - a / a_prev)
        z = math.sqrt(a_prev) * x0 + math.sqrt(max(1 - a_prev - std**2, 0)) * eps
        z += std * draw() if std > 0 else 0
    return z / alpha(s[-1])


def heun(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """Karras et al. (2022), Algorithm 1 with sigma(t) = t."""
    for i in range(len(s) - 1):
        d = (x - D(x, s[i])) / s[i]
        x_next = x + (s[i + 1] - s[i]) * d
        if s[i + 1] != 0:
            d_next = (x_next - D(x_next, s[i + 1])) / s[i + 1]
            x_next = x + (s[i + 1] - s[i]) * (d / 2 + d_next / 2)
        x = x_next
    return x


def lms(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    slopes: list[float] = []
    for i in range(len(s) - 1):
        slopes.append((x - D(x, s[i])) / s[i])
        order = min(i + 1, 4)
        for j in range(order):

            def basis(tau: float, i: int = i, j: int = j, order: int = order) -> float:
                value = 1.0
                for k in range(order):
                    if k != j:
                        value *= (tau - s[i - k]) / (s[i - j] - s[i - k])
                return value

            x += integrate.quad(basis, s[i], s[i + 1], epsrel=1e-10)[0] * slopes[i - j]
    return x


def _dpm_solver_2(D: Denoise, x: float, here: float, there: float) -> float:
    """DPM-Solver-2 as k-diffusion writes it: the slope of the middle in log sigma, a whole step long."""
    if there == 0:
        return x + (there - here) * (x - D(x, here)) / here
    middle = math.exp((math.log(here) + math.log(there)) / 2)
    x_middle = x + (middle - here) * (x - D(x, here)) / here
    return x + (there - here) * (x_middle - D(x_middle, middle)) / middle


def _down_up(here: float, there: float, eta: float) -> tuple[float, float]:
    up = min(there, eta * (there**2 * (here**2 - there**2) / here**2) ** 0.5)
    return (there**2 - up**2) ** 0.5, up


def dpm_2(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    for i in range(len(s) - 1):
        x = _dpm_solver_2(D, x, s[i], s[i + 1])
    return x


def dpm_2_a(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    for i in range(len(s) - 1):
        down, up = _down_up(s[i], s[i + 1], eta)
        x = _dpm_solver_2(D, x, s[i], down)
        x += up * draw() if up > 0 else 0
    return x


def dpmpp_2s_a(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """Lu et al. (2022b), Algorithm 1 with r = 1/2, on alpha * x."""
    for i in range(len(s) - 1):
        down, up = _down_up(s[i], s[i + 1], eta)
        if down == 0:
            x = D(x, s[i])
        else:
            h = lam(down) - lam(s[i])
            u_sigma = math.exp(-(lam(s[i]) + h / 2))
            z = x * alpha(s[i])
            std, std_u, std_t = (alpha(v) * v for v in (s[i], u_sigma, down))
            u = std_u / std * z - alpha(u_sigma) * (math.exp(-h / 2) - 1) * D(x, s[i])
            D_u = D(u / alpha(u_sigma), u_sigma)
            z = std_t / std * z - alpha(down) * (math.exp(-h) - 1) * D_u
            x = z / alpha(down)
        x += up * draw() if up > 0 else 0
    return x


def dpmpp_2m(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """Lu et al. (2022b), Algorithm 2, on alpha * x; a last step to 0 is of first order."""
    z = x * alpha(s[0])
    outputs: list[float] = []
    for i in range(len(s) - 1):
        outputs.append(D(z / alpha(s[i]), s[i]))
        if s[i + 1] == 0:
            return outputs[-1]
        h = lam(s[i + 1]) - lam(s[i])
        combined = outputs[i]
        if i > 0:
            r = (lam(s[i]) - lam(s[i - 1])) / h
            combined = (1 + 1 / (2 * r)) * outputs[i] - 1 / (2 * r) * outputs[i - 1]
        std, std_next = alpha(s[i]) * s[i], alpha(s[i + 1]) * s[i + 1]
        z = std_next / std * z - alpha(s[i + 1]) * (math.exp(-h) - 1) * combined
    return z / alpha(s[-1])


def dpmpp_sde(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    for i in range(len(s) - 1):
        here, there = s[i], s[i + 1]
        if there == 0:
            return D(x, here)
        first = D(x, here)
        middle = math.exp(-(lam(here) + (lam(there) - lam(here)) / 2))
        down, up = _down_up(here, middle, eta)
        x_middle = down / here * x - (math.exp(lam(here) - lam(down)) - 1) * first
        x_middle += up * between(here, middle) if up > 0 else 0
        second = D(x_middle, middle)
        down, up = _down_up(here, there, eta)
        x = down / here * x - (math.exp(lam(here) - lam(down)) - 1) * second
        x += up * between(here, there) if up > 0 else 0
    return x


def _dpmpp_2m_sde(heun_type: bool) -> Callable[..., float]:
    def run(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
        outputs: list[float] = []
        for i in range(len(s) - 1):
            outputs.append(D(x, s[i]))
            if s[i + 1] == 0:
                return outputs[-1]
            h = lam(s[i + 1]) - lam(s[i])
            g = h + eta * h
            new = s[i + 1] / s[i] * math.exp(-eta * h) * x + (1 - math.exp(-g)) * outputs[i]
            if i > 0:
                r = (lam(s[i]) - lam(s[i - 1])) / h
                slope = (outputs[i] - outputs[i - 1]) / r
                new += ((1 - math.exp(-g)) / -g + 1) * slope if heun_type else (1 - math.exp(-g)) / 2 * slope
            if eta:
                new += between(s[i], s[i + 1]) * s[i + 1] * math.sqrt(1 - math.exp(-2 * eta * h))
            x = new
        return x

    return run


def dpmpp_3m_sde(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """The polynomial through the last three outputs, integrated with the SDE's exponential by quadrature."""
    outputs: list[float] = []
    for i in range(len(s) - 1):
        outputs.append(D(x, s[i]))
        if s[i + 1] == 0:
            return outputs[-1]
        h = lam(s[i + 1]) - lam(s[i])
        g = h * (1 + eta)
        times = [(lam(s[i - k]) - lam(s[i])) / h for k in range(min(i + 1, 3))]
        values = [outputs[i - k] for k in range(min(i + 1, 3))]

        def output(u: float, times: list[float] = times, values: list[float] = values) -> float:
            """Newton's interpolation at the share u of the step."""
            total = values[0]
            if len(times) > 1:
                first = (values[0] - values[1]) / (times[0] - times[1])
                total += u * first
            if len(times) > 2:
                second = (values[1] - values[2]) / (times[1] - times[2])
                bend = (first - second) / (times[0] - times[2])
                total += bend * (u * u / 2 - u * times[1])  # Newton has u * u: k-diffusion takes half of it
            return total

        def weighted(u: float, g: float = g, output: Callable[[float], float] = output) -> float:
            return g * math.exp(-g * (1 - u)) * output(u)

        x = math.exp(-g) * x + integrate.quad(weighted, 0, 1, epsrel=1e-12)[0]
        if eta:
            x += between(s[i], s[i + 1]) * s[i + 1] * math.sqrt(1 - math.exp(-2 * eta * h))
    return x


def plms(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """Liu et al. (2022), eq. 11 to 13, on alpha * x, as the latent diffusion code base begins it."""

    def eps_at(z: float, sigma: float) -> float:
        return (z - alpha(sigma) * D(z / alpha(sigma), sigma)) / (alpha(sigma) * sigma)

    def transfer(z: float, eps: float, here: float, there: float) -> float:
        x0 = (z - alpha(here) * here * eps) / alpha(here)
        return alpha(there) * x0 + alpha(there) * there * eps

    z = x * alpha(s[0])
    e: list[float] = []
    for i in range(len(s) - 1):
        e.append(eps_at(z, s[i]))
        if i == 0:
            z_next = transfer(z, e[0], s[0], s[1])
            prime = (e[0] + eps_at(z_next, s[1])) / 2
        elif i == 1:
            prime = (3 * e[1] - e[0]) / 2
        elif i == 2:
            prime = (23 * e[2] - 16 * e[1] + 5 * e[0]) / 12
        else:
            prime = (55 * e[i] - 59 * e[i - 1] + 37 * e[i - 2] - 9 * e[i - 3]) / 24
        z = transfer(z, prime, s[i], s[i + 1])
    return z / alpha(s[-1])


def unipc(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """Zhao et al. (2023), Algorithms 5 (predictor) and 6 (corrector) of the data prediction, B(h) = h."""
    import numpy as np

    z = x * alpha(s[0])
    steps = len(s) - 1
    m = {0: D(x, s[0])}
    for i in range(1, steps + 1):
        p = min(3, i, steps + 1 - i)
        h = lam(s[i]) - lam(s[i - 1])
        B = -h

        def phi(k: int, v: float = -h) -> float:
            """phi_0 = exp(v), phi_{k+1} = (phi_k - 1 / k!) / v."""
            return math.exp(v) if k == 0 else (phi(k - 1) - 1 / math.factorial(k - 1)) / v

        r = [(lam(s[i - 1 - k]) - lam(s[i - 1])) / h for k in range(1, p)]
        differences = [(m[i - 1 - k] - m[i - 1]) / r[k - 1] for k in range(1, p)]
        base = alpha(s[i]) * s[i] / (alpha(s[i - 1]) * s[i - 1]) * z
        base -= alpha(s[i]) * (math.exp(-h) - 1) * m[i - 1]

        def b(count: int, phi: Callable[[int], float] = phi, h: float = h, B: float = B) -> list[float]:
            return [-h * math.factorial(n) * phi(n + 1) / B for n in range(1, count + 1)]

        if p == 1:
            rho_p: list[float] = []
        elif p == 2:
            rho_p = [0.5]
        else:
            rho_p = list(np.linalg.solve([[v**n for v in r] for n in range(p - 1)], b(p - 1)))
        z_predicted = base - alpha(s[i]) * B * sum(a * d for a, d in zip(rho_p, differences, strict=True))
        if i == steps:
            return z_predicted / alpha(s[i])
        m[i] = D(z_predicted / alpha(s[i]), s[i])
        nodes = [*r, 1.0]
        powers = [[v**n for v in nodes] for n in range(p)]
        rho_c = [0.5] if p == 1 else list(np.linalg.solve(powers, b(p)))
        corrections = [*differences, m[i] - m[i - 1]]
        z = base - alpha(s[i]) * B * sum(a * d for a, d in zip(rho_c, corrections, strict=True))
    return x


def lcm(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    for i in range(len(s) - 1):
        x = D(x, s[i])
        x += s[i + 1] * draw() if s[i + 1] > 0 else 0
    return x


def dpm_fast(D: Denoise, x: float, s: list[float], draw: Draw, between: Between, eta: float) -> float:
    """Lu et al. (2022a), Algorithms 1 and 2 and appendix D.3, on x / alpha, with ancestral noise."""
    calls = len(s) - 1
    low = min(v for v in s if v > 0)
    count = calls // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if calls % 3 == 0 else [3] * (count - 1) + [calls % 3]
    lams = [lam(s[0]) + (lam(low) - lam(s[0])) * i / count for i in range(count + 1)]

    def E(x: float, l: float) -> float:  # noqa: E741
        return (x - D(x, math.exp(-l))) / math.exp(-l)

    for i, order in enumerate(orders):
        a, b = lams[i], lams[i + 1]
        down, _ = _down_up(math.exp(-a), math.exp(-b), eta)
        b_down = min(lam(down), lams[-1]) if down > 0 else lams[-1]
        up = math.sqrt(max(math.exp(-2 * b) - math.exp(-2 * b_down), 0))
        h = b_down - a
        e = E(x, a)
        end = math.exp(-b_down)
        if order == 1:
            new = x - end * (math.exp(h) - 1) * e
        elif order == 2:
            mid = a + h / 2
            u = x - math.exp(-mid) * (math.exp(h / 2) - 1) * e
            new = x - end * (math.exp(h) - 1) * e - end * (math.exp(h) - 1) * (E(u, mid) - e)
        else:
            r1, r2 = 1 / 3, 2 / 3
            l1, l2 = a + r1 * h, a + r2 * h
            u1 = x - math.exp(-l1) * (math.exp(r1 * h) - 1) * e
            d1 = E(u1, l1) - e
            u2 = x - math.exp(-l2) * (math.exp(r2 * h) - 1) * e
            u2 -= math.exp(-l2) * r2 / r1 * ((math.exp(r2 * h) - 1) / (r2 * h) - 1) * d1
            d2 = E(u2, l2) - e
            new = x - end * (math.exp(h) - 1) * e - end / r2 * ((math.exp(h) - 1) / h - 1) * d2
        x = new + up * draw()
    return x


REFERENCES: dict[str, Callable[..., float]] = {
    "Euler": euler,
    "Euler a": ddim,
    "Heun": heun,
    "LMS": lms,
    "DPM2": dpm_2,
    "DPM2 a": dpm_2_a,
    "DPM++ 2S a": dpmpp_2s_a,
    "DPM++ 2M": dpmpp_2m,
    "DPM++ SDE": dpmpp_sde,
    "DPM++ 2M SDE": _dpmpp_2m_sde(False),
    "DPM++ 2M SDE Heun": _dpmpp_2m_sde(True),
    "DPM++ 3M SDE": dpmpp_3m_sde,
    "DPM fast": dpm_fast,
    "LCM": lcm,
    "DDIM": ddim,
    "PLMS": plms,
    "UniPC": unipc,
}
