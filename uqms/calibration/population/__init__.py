"""Populations: individual parameters of many subjects, who share one simulator and the error of its surrogate."""
