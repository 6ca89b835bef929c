"""Minima that no formula gives: the value by the number of variables, to about twelve digits.

Each is one that two or more of SciPy's BFGS, L-BFGS-B, CG, Newton-CG and trust-exact reach from the customary start, as
`tests/study/problems/test_literature.py` does again; where Moré, Garbow and Hillstrom (1981) tell one, it has their
digits. Some methods end lower: trust-exact on Biggs' at 0, on Chebyquad (n = 10) at 4.77e-3 and on the trigonometric
function (n = 100) at 6.0e-8, L-BFGS-B on Freudenstein and Roth's (n = 10000) at 1216427.0.
"""

MINIMA: dict[str, dict[int, float]] = {
    "Jennrich-Sampson": {2: 124.362182356},
    "Bard": {3: 8.21487730658e-3},
    "Gaussian": {3: 1.12793276962e-8},
    "Meyer": {3: 87.9458551707},
    "Kowalik-Osborne": {4: 3.07505603849e-4},
    "Brown-Dennis": {4: 85822.2016264},
    "Osborne 1": {5: 5.46489469748e-5},
    "Biggs EXP6": {6: 5.65564992550e-3},
    "Osborne 2": {11: 4.01377362935e-2},
    "Watson": {6: 2.28767005355e-3, 9: 1.39976013809e-6, 12: 4.72238110830e-10},
    "Freudenstein-Roth": {
        2: 48.9842536792,
        10: 1014.06407257,
        100: 11964.577348654,
        1000: 121469.71010945,
        10_000: 1216521.0377174,
    },
    "penalty I": {
        4: 2.24997750090e-5,
        10: 7.08765146709e-5,
        100: 9.02490976804e-4,
        1000: 9.68617543245e-3,
        10_000: 9.90015119472e-2,
    },
    "penalty II": {4: 9.37629300736e-6, 10: 2.93660537457e-4, 100: 97096.083954688},
    "trigonometric": {10: 2.79505612188e-5, 100: 1.84096254247e-6},
    "Chebyquad": {8: 3.51687372568e-3, 10: 6.50395480088e-3},
    "BDQRTIC": {10: 18.2811617536, 100: 378.769191809, 1000: 3983.81795058, 10_000: 40034.305538255},
    "CRAGGLVY": {10: 1.88656589666, 100: 32.2699114586, 1000: 336.423147873, 10_000: 3377.95551202},
    "EDENSCH": {10: 63.2846001053, 100: 603.284592021, 1000: 6003.28459202, 10_000: 60003.284592021},
    "ENGVAL1": {10: 9.17746995718, 100: 109.088136143, 1000: 1108.19471879, 10_000: 11099.260545204},
    "EG2": {10: -8.94751089033, 100: -98.9474026818, 1000: -998.947393301, 10_000: -9998.9473923753},
}
