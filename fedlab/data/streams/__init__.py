"""Data that come in steps: what comes when, who meets it, who is there.

Prediction is over exposed classes for every method alike. A step takes one round in closed form (two for
`air_two_rounds`); the averaging methods take `rounds`, and `buffer` is what their clients replay. A client that
failed is told, when it is asked again, the rounds it missed, and sends what it met in them too. A phase of DS-AL is a
round: what lagging clients send late belongs to the phase in which it arrives, and a class is new in the first phase
that has a sample of it.
"""
