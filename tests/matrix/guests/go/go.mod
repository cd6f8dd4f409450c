module tidegate.example/matrix

go 1.24
